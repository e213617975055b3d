"""What a training run is made of: a TOML file in which every key is known and every value possible.

`recipes/paper.toml` is the paper's recipe for a bi-encoder, `recipes/hard-negatives-minilm.toml`
ours; `recipes/reranker-minilm.toml` is one for a cross-encoder, `recipes/distill-minilm.toml` one
for a query encoder.
"""

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import typer
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rpc.terminal import CommandError

SEED_MAX = (1 << 63) - 1  # what torch and TOML both hold
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Another value: loss.temperature=0.02."),
]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
_ARRAY = Field(strict=False)  # TOML's are lists, and these fields tuples; what is in them is strict


class Section(BaseModel):
    """A table of the file: nothing in it is unknown or of another type, nothing of it changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ModelSection(Section):
    """What is trained.

    Attributes:
        base: folder or id of a sentence-transformers model.
        max_tokens: texts are cut after so many while training; None: the model's limit.
        freeze_token_embeddings: leave the vectors of words as they are: most of a small model's
            weights, of which a small data set sees few.
        freeze_layers: leave the first so many layers as they are, which saves the way back through
            them.
    """

    base: str = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=8, le=8192)
    freeze_token_embeddings: bool = False
    freeze_layers: int = Field(default=0, ge=0, le=256)

    @model_validator(mode="after")
    def _from_below(self) -> Self:
        if self.freeze_layers and not self.freeze_token_embeddings:
            raise ValueError(
                f"freeze_layers is {self.freeze_layers}, and below them freeze_token_embeddings is "
                "false; layers are frozen from below"
            )
        return self


class BiEncoderSection(ModelSection):
    """What is trained.

    Attributes:
        principal_directions: turn the trained vectors so that their first dimensions say the most;
            inner products of whole vectors stay.
    """

    principal_directions: bool = False


class DataSection(Section):
    """What is trained on.

    Attributes:
        pairs_max: use so many pairs, the first drawn; None: all.
        except_category: leave out pairs and dev's queries of this category, to test what carries
            over to it; there must be pairs of it.
    """

    pairs_max: int | None = Field(default=None, ge=2)
    except_category: str | None = None


class QueriesSection(DataSection):
    """What is trained on, and what is asked beside reviews.

    Attributes:
        short_queries: so many made-up short queries for each item, two to four words of its title;
            dev asks one for each of its reviews as well.
    """

    short_queries: int = Field(default=0, ge=0, le=16)


class LossSection(Section):
    """What is made small.

    Attributes:
        kind: "mnrl" holds a whole batch in memory; "cached_mnrl" a mini-batch, and takes a third
            longer.
        temperature: cosines are divided by it.
        symmetric: also find the query for an item, not only the item for a query.
        hardness: weight of the negatives that are close; 0: all alike.
        matryoshka_dims: also train these first dimensions to stand alone; empty: only all. All are
            trained in any case; to name them changes nothing.
    """

    kind: Literal["mnrl", "cached_mnrl"] = "mnrl"
    temperature: float = Field(default=0.05, ge=0.001, le=1.0)
    symmetric: bool = False
    hardness: float = Field(default=0.0, ge=0.0, le=50.0)
    matryoshka_dims: Annotated[tuple[Annotated[int, Field(ge=1)], ...], _ARRAY] = ()


class BatchSection(Section):
    """How pairs come together.

    Attributes:
        size: pairs a batch; a bi-encoder's items are each other's negatives.
        accumulation: batches a step of the optimizer. It adds no negatives.
        mini_batch: texts or pairs that the model takes at once.
        bucket: so many batches are filled from pairs sorted by length, which saves padding; 1: not.
    """

    size: int = Field(ge=2, le=65_536)
    accumulation: int = Field(default=1, ge=1, le=1024)
    mini_batch: int = Field(default=32, ge=1, le=4096)
    bucket: int = Field(default=1, ge=1, le=1024)


class ProductBatchSection(BatchSection):
    """Batches that also look at products.

    Attributes:
        product_once: no two pairs of a batch are of one product, which would be its own negative.
    """

    product_once: bool = False


class WindowSection(Section):
    """Hard negatives: items that a bi-encoder ranks high, and that are not of the product.

    Attributes:
        per_pair: how many; 0: none.
        rank_first, rank_last: taken from these ranks, 1-based, product left out.
        margin: only items whose score is at most (1 - margin) of the positive's: closer ones may be
            right as well.
        refresh: mine again, or draw others, before each epoch.
    """

    per_pair: int = Field(default=0, ge=0, le=32)
    rank_first: int = Field(default=1, ge=1)
    rank_last: int = Field(default=50, ge=1, le=1000)
    margin: Share = 0.05
    refresh: bool = True

    @model_validator(mode="after")
    def _window(self) -> Self:
        if self.rank_last - self.rank_first + 1 < self.per_pair:
            raise ValueError(
                f"rank_first {self.rank_first} to rank_last {self.rank_last} has no room for "
                f"{self.per_pair} per_pair"
            )
        return self


class NegativesSection(WindowSection):
    """Negatives that the model in training finds itself.

    Attributes:
        from_epoch: first epoch with them, 1-based.
    """

    from_epoch: int = Field(default=1, ge=1)


class OptimizerSection(Section):
    """How weights move: AdamW, warm-up, then linearly to zero.

    Attributes:
        learning_rate: at its peak.
        epochs: passes over the pairs.
        warmup: share of all steps in which the rate rises.
        weight_decay: AdamW's.
        gradient_norm_max: longer gradients are shortened.
    """

    learning_rate: float = Field(gt=0.0, le=0.1)
    epochs: int = Field(default=1, ge=1, le=1000)
    warmup: Share = 0.1
    weight_decay: Share = 0.0
    gradient_norm_max: float = Field(default=1.0, gt=0.0)


class RunSection(Section):
    """How a run goes.

    Attributes:
        seed: of the order of pairs and of dropout.
        evaluations_per_epoch: how often dev is measured; the best weights are kept.
        patience: stop after so many evaluations without a better one; 0: never.
        dev_queries, dev_items: size of the collection it is measured on.
        checkpoint_steps: optimizer steps between checkpoints.
        bf16: compute in bfloat16 on a GPU, and on a CPU that multiplies it (AMX, AVX-512 BF16).
    """

    seed: int = Field(default=7, ge=0, le=SEED_MAX)
    evaluations_per_epoch: int = Field(default=4, ge=1, le=1000)
    patience: int = Field(default=0, ge=0)
    dev_queries: int = Field(default=500, ge=1)
    dev_items: int = Field(default=3000, ge=10)
    checkpoint_steps: int = Field(default=20, ge=1)
    bf16: bool = True


class AnyRecipe(Section):
    """What every recipe says."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    model: ModelSection
    data: DataSection = DataSection()
    batches: BatchSection
    optimizer: OptimizerSection
    run: RunSection = RunSection()


class Recipe(AnyRecipe):
    """A recipe for a bi-encoder."""

    model: BiEncoderSection
    data: QueriesSection = QueriesSection()
    loss: LossSection = LossSection()
    batches: ProductBatchSection
    negatives: NegativesSection = NegativesSection()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.loss.kind == "cached_mnrl" and self.batches.mini_batch > self.batches.size:
            raise ValueError(
                f"batches.mini_batch is {self.batches.mini_batch}, more than batches.size "
                f"{self.batches.size}"
            )
        if self.negatives.per_pair and self.negatives.from_epoch > self.optimizer.epochs:
            raise ValueError(
                f"negatives.from_epoch is {self.negatives.from_epoch}, after the last of "
                f"optimizer.epochs {self.optimizer.epochs}"
            )
        return self


class RerankerLossSection(Section):
    """What is made small, over a query's item and its negatives.

    Attributes:
        kind: "ranknet": each negative below the item; "lambda": the same, weighted by what a swap
            costs of nDCG; "bce": each pair right or wrong on its own.
    """

    kind: Literal["ranknet", "lambda", "bce"] = "ranknet"


class RerankerNegativesSection(WindowSection):
    """Negatives that the bi-encoder finds whose hits are reranked."""

    per_pair: int = Field(default=4, ge=1, le=32)


class RerankerRunSection(RunSection):
    """How a run goes that measures itself by reranking.

    Attributes:
        dev_depth: hits of the bi-encoder that are reranked for a query of dev.
    """

    dev_queries: int = Field(default=200, ge=1)
    dev_depth: int = Field(default=20, ge=2, le=100)


class RerankerRecipe(AnyRecipe):
    """A recipe for a cross-encoder."""

    data: QueriesSection = QueriesSection()
    loss: RerankerLossSection = RerankerLossSection()
    negatives: RerankerNegativesSection = RerankerNegativesSection()
    run: RerankerRunSection = RerankerRunSection()


class DistillDataSection(DataSection):
    """What a query encoder is trained on.

    Attributes:
        texts: "reviews"; "titles" of items; "words", two to four of a title's, as one types them.
    """

    texts: Annotated[
        tuple[Literal["reviews", "titles", "words"], ...], _ARRAY, Field(min_length=1)
    ] = ("reviews", "titles", "words")


class DistillLossSection(Section):
    """What is made small: 1 - cosine to where the teacher puts a text, and what stands here.

    Attributes:
        find_items: weight of finding a text's item among all that are trained on, as the teacher
            put them; 0: not at all.
        temperature: cosines to items are divided by it.
    """

    find_items: float = Field(default=0.0, ge=0.0, le=100.0)
    temperature: float = Field(default=0.05, ge=0.001, le=1.0)


class DistillRecipe(AnyRecipe):
    """A recipe for a query encoder in the space of another encoder."""

    loss: DistillLossSection = DistillLossSection()
    data: DistillDataSection = DistillDataSection()


R = TypeVar("R", bound=AnyRecipe)


def read_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """Return the bi-encoder's recipe in a file; see `read_recipe_of`."""
    return read_recipe_of(Recipe, path, changes)


def read_recipe_of(kind: type[R], path: Path, changes: Sequence[str] = ()) -> R:
    """Return the recipe in a file.

    Args:
        kind: of recipe.
        path: of a TOML file.
        changes: keys and other values for them, as `loss.temperature=0.02`; values as in TOML.

    Raises:
        CommandError: it is missing or not TOML, or a key is unknown, missing or impossible.
    """
    try:
        recipe = tomllib.loads(path.read_text(encoding="utf-8"))
        for change in changes:
            _set(recipe, change)
        return kind.model_validate(recipe)
    except FileNotFoundError as exc:
        raise CommandError(f"{path}: no such recipe") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise CommandError(f"{path}: is not TOML: {exc}") from exc
    except ValidationError as exc:
        raise CommandError(f"{path}: {'; '.join(_sentences(exc))}") from exc


def _set(recipe: dict[str, Any], change: str) -> None:
    """Give one key of a recipe another value.

    >>> recipe = {"name": "paper", "loss": {"temperature": 0.05}}
    >>> _set(recipe, "loss.temperature=0.02")
    >>> _set(recipe, 'name="cold"')
    >>> recipe
    {'name': 'cold', 'loss': {'temperature': 0.02}}
    """
    key, _, value = change.partition("=")
    *sections, last = key.strip().split(".")
    try:
        found = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError as exc:
        raise CommandError(
            f"--set {change}: {exc}; write KEY=VALUE, with the value as in TOML: "
            "loss.temperature=0.02, 'name=\"cold\"'"
        ) from exc
    inner = recipe
    for section in sections:
        inner = inner.setdefault(section, {})
        if not isinstance(inner, dict):
            raise CommandError(f"--set {change}: {section} has no keys")
    inner[last] = found


def _sentences(exc: ValidationError) -> list[str]:
    """Return what is wrong, a key a sentence."""
    found = []
    for error in exc.errors():
        key = ".".join(map(str, error["loc"])) or "recipe"
        if error["type"] == "extra_forbidden":
            found.append(f"{key} is no key of a recipe")
        elif error["type"] == "missing":
            found.append(f"{key} is missing")
        else:
            found.append(f"{key} is {error['input']!r}: {error['msg']}"[:300])
    return found
