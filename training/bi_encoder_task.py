"""What a bi-encoder learns: to find a review's item among those of a batch, and hard negatives."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np
import orjson
import torch
import xxhash
from numpy.typing import NDArray

from rpc.terminal import CommandError, progress_bar
from training.batches import Batch, batches_of
from training.beir import Collection
from training.examples import Examples
from training.losses import Features, Loss, build_loss
from training.mining import mine, window_of
from training.model_source import find_model
from training.principal_directions import principal_directions, turned
from training.ranking import evaluate_vectors
from training.recipe import AnyRecipe, Recipe
from training.torch_encoder import load_model, prompts_of
from training.trainer import best_device, freeze, shorten

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

DIRECTIONS_TEXTS_MAX = 8192


@dataclass(slots=True)
class BiEncoderTask:
    """A bi-encoder and what it learns from.

    Attributes:
        recipe: how.
        model: the bi-encoder.
        examples: pairs; the model's prompts stand before their texts.
        dev: what the best weights are chosen on, likewise.
        same_title: the items that answer a query of dev count as one.
        cost: the loss of a batch's columns.
        whole_tokens: the model's own limit, which is put back when it is trained.
        fingerprint: stands for examples and dev.
        measure: what dev is measured by.
    """

    recipe: Recipe
    model: Any
    examples: Examples
    dev: Collection
    same_title: bool
    cost: Loss
    whole_tokens: int
    fingerprint: str
    measure: str = "recall@10"

    def batches(self, epoch: int) -> list[Batch]:
        """Return the batches of an epoch, 0-based."""
        return batches_of(
            self.recipe,
            self.examples.groups,
            self.examples.queries,
            epoch,
            product_once=self.recipe.batches.product_once,
        )

    def loss(self, batch: Batch, negatives: Rows | None) -> torch.Tensor:
        """Return a batch's loss."""
        columns = self.examples.columns(batch, negatives)
        return self.cost([features_of(self.model, texts) for texts in columns])

    def measure_dev(self) -> float:
        """Return recall@10 on dev."""
        size = self.recipe.batches.mini_batch
        queries = embed(self.model, self.dev.query_texts, size)
        items = embed(self.model, self.dev.item_texts, size)
        found = evaluate_vectors(self.dev, queries, items, [self.measure], as_one=self.same_title)
        return found.means[self.measure]

    def mine(self, epoch: int, *, known: bool) -> Rows | None:
        """Return what the model itself ranks high and is of another product."""
        examples, wanted = self.examples, self.recipe.negatives
        if not wanted.per_pair or epoch < wanted.from_epoch or (known and not wanted.refresh):
            return None
        size = self.recipe.batches.mini_batch
        return mine(
            embed(self.model, examples.queries, size),
            embed(self.model, examples.items, size),
            examples.groups,
            examples.item_groups,
            examples.positives,
            window_of(wanted),
            seed=self.recipe.run.seed + epoch,
        )

    def finished(self) -> Any:
        """Return the model as it is written: with its own limit, turned where that is asked for."""
        model = self.model.eval()
        if self.recipe.model.principal_directions:
            texts = Random(self.recipe.run.seed).sample(  # noqa: S311 - repeatable on purpose
                self.examples.items, min(DIRECTIONS_TEXTS_MAX, len(self.examples.items))
            )
            vectors = embed(model, texts, self.recipe.batches.mini_batch)
            model = turned(model, principal_directions(vectors))
        model.max_seq_length = self.whole_tokens
        return model


def prepare_task(
    recipe: Recipe, examples: Examples, dev: Collection, *, same_title: bool
) -> BiEncoderTask:
    """Load the model and say what it learns.

    Raises:
        CommandError: there is no such model, or the recipe does not fit it or the pairs.
    """
    model = load_to_train(recipe)
    whole_tokens = shorten(model, recipe)
    freeze(model, recipe)
    examples, dev = with_prompts(prompts_of(model), examples, dev)
    task = BiEncoderTask(
        recipe=recipe,
        model=model,
        examples=examples,
        dev=dev,
        same_title=same_title,
        cost=build_loss(model, recipe),
        whole_tokens=whole_tokens,
        fingerprint=fingerprint_of(examples, dev, same_title=same_title),
    )
    if not task.batches(0):
        raise CommandError("the pairs are all of one product, and batches.product_once is true")
    products = len(set(examples.item_groups))
    if recipe.negatives.per_pair and recipe.batches.size >= products:
        raise CommandError(
            f"batches.size is {recipe.batches.size} and there are {products} products: a batch "
            "that asks for all of them leaves none for negatives.per_pair; lower it"
        )
    return task


def load_to_train(recipe: AnyRecipe) -> Any:
    """Return the bi-encoder that a recipe starts from, on a GPU where there is one.

    Raises:
        CommandError: there is no such model.
    """
    torch.manual_seed(recipe.run.seed)
    source = find_model(recipe.model.base)
    with progress_bar("loading the model", total=None):
        model: Any = load_model(source)
    return model.to(best_device())


def embed(model: Any, texts: Sequence[str], size: int) -> Floats:
    """Return unit vectors, float32 of shape (n, dim). Dropout is off, no random number is drawn."""
    vectors: Floats = model.eval().encode(
        list(texts),
        prompt="",  # it stands there already
        batch_size=size,
        normalize_embeddings=True,
        show_progress_bar=False,
    )
    return vectors.astype(np.float32)


def features_of(model: Any, texts: list[str]) -> Features:
    """Return texts as the model takes them, tensors of shape (n, tokens)."""
    features = model.preprocess(texts)
    return {
        name: value.to(model.device)
        for name, value in features.items()
        if isinstance(value, torch.Tensor)
    }


def with_prompts(
    prompts: dict[str, str], examples: Examples, dev: Collection
) -> tuple[Examples, Collection]:
    """Return both with the model's prompts before their texts."""
    query, item = prompts["query"], prompts["item"]
    return (
        replace(
            examples,
            queries=tuple(query + text for text in examples.queries),
            items=tuple(item + text for text in examples.items),
        ),
        replace(
            dev,
            query_texts=tuple(query + text for text in dev.query_texts),
            item_texts=tuple(item + text for text in dev.item_texts),
        ),
    )


def fingerprint_of(examples: Examples, dev: Collection, *, same_title: bool) -> str:
    """Return a hash over pairs and dev, its judgements too: the best weights follow from them."""
    judged = (dev.query_ids, dev.query_texts, dev.item_ids, dev.item_texts, dev.qrels, same_title)
    return xxhash.xxh3_128_hexdigest(orjson.dumps((examples.fingerprint, *judged)))
