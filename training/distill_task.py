"""What a query encoder learns: to ask in the space of a larger encoder, the teacher.

Items stay as the teacher embedded them; only what is typed goes through the student. It learns to
put a text where the teacher puts it, and to find the text's item among all.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from rpc.terminal import progress_bar
from training.batches import Batch, batches_of
from training.beir import Collection
from training.bi_encoder_task import embed, features_of, fingerprint_of, load_to_train
from training.examples import Examples
from training.losses import cosines, embed_by_length
from training.principal_directions import kept_modules, with_linear
from training.ranking import evaluate_vectors
from training.recipe import DistillRecipe
from training.short_queries import few_words
from training.torch_encoder import prompts_of
from training.trainer import freeze, shorten

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

PROJECTION_TEXTS_MAX = 4096
PROJECTION_RIDGE = 1e-3


@dataclass(frozen=True, slots=True)
class Texts:
    """What is learned on, each text once, and the item that answers each, a row of the examples'.

    Attributes:
        texts: as the recipe names them.
        answers: int64 of shape (texts,).
    """

    texts: tuple[str, ...]
    answers: Rows


@dataclass(frozen=True, slots=True)
class Lesson:
    """What the teacher says, unit float32 vectors.

    Attributes:
        name, fingerprint: the teacher's.
        learned: what is learned on.
        vectors: parallel to its texts.
        items: parallel to the items of the examples.
        dev_items: parallel to the items of dev.
    """

    name: str
    fingerprint: str
    learned: Texts
    vectors: Floats
    items: Floats
    dev_items: Floats


@dataclass(slots=True)
class DistillTask:
    """A student and what it learns from.

    Attributes:
        recipe: how.
        model: the student, a bi-encoder with as many dimensions as the teacher.
        lesson: of the teacher; the student's own prompt stands before its texts.
        products: a number for the product of each item of the examples, int64.
        dev: what the best weights are chosen on, likewise.
        same_title: the items that answer a query of dev count as one.
        whole_tokens: the student's own limit, which is put back when it is trained.
        fingerprint: stands for texts, dev and teacher.
        measure: what dev is measured by: the student's queries over the teacher's items.
    """

    recipe: DistillRecipe
    model: Any
    lesson: Lesson
    products: Rows
    dev: Collection
    same_title: bool
    whole_tokens: int
    fingerprint: str
    measure: str = "recall@10"

    def batches(self, epoch: int) -> list[Batch]:
        """Return the batches of an epoch, 0-based."""
        texts = self.lesson.learned.texts
        return batches_of(self.recipe, texts, texts, epoch)

    def loss(self, batch: Batch, negatives: Rows | None) -> torch.Tensor:
        """Return 1 - cosine to the teacher's vectors, and what finding the items costs.

        Items are the teacher's and do not change, so all of them are each text's negatives.
        """
        assert negatives is None
        learned, lesson = self.lesson.learned, self.lesson
        features = features_of(self.model, [learned.texts[place] for place in batch])
        vectors = embed_by_length(self.model, features, self.recipe.batches.mini_batch).float()
        wanted = torch.from_numpy(lesson.vectors[batch]).to(vectors.device)
        loss = 1.0 - torch.nn.functional.cosine_similarity(vectors, wanted).mean()
        if not self.recipe.loss.find_items:
            return loss
        answers = learned.answers[batch]
        scores = cosines(vectors, torch.from_numpy(lesson.items).to(vectors.device))
        # Another item of the answer's product is no wrong one.
        alike = self.products[answers][:, None] == self.products
        alike[np.arange(len(answers)), answers] = False
        scores = scores.masked_fill(torch.from_numpy(alike).to(scores.device), -torch.inf)
        found = torch.nn.functional.cross_entropy(
            scores / self.recipe.loss.temperature, torch.from_numpy(answers).to(scores.device)
        )
        return loss + self.recipe.loss.find_items * found

    def measure_dev(self) -> float:
        """Return recall@10 of the student's queries over the teacher's items."""
        queries = embed(self.model, self.dev.query_texts, self.recipe.batches.mini_batch)
        return recall_of(self, queries)

    def mine(self, epoch: int, *, known: bool) -> Rows | None:  # noqa: ARG002 - as every task's
        """Return None: a student has no negatives."""
        return None

    def finished(self) -> Any:
        """Return the model as it is written: with its own limit."""
        self.model.max_seq_length = self.whole_tokens
        return self.model


def recall_of(task: DistillTask, queries: Floats) -> float:
    """Return recall@10 of queries of dev over the teacher's items."""
    found = evaluate_vectors(
        task.dev, queries, task.lesson.dev_items, [task.measure], as_one=task.same_title
    )
    return found.means[task.measure]


def texts_of(recipe: DistillRecipe, examples: Examples) -> Texts:
    """Return what is learned on: what the recipe names, each text once, with its first answer."""
    rows = range(len(examples.items))
    kinds: dict[str, Iterable[tuple[str, int]]] = {
        "reviews": zip(examples.queries, examples.positives.tolist(), strict=True),
        "titles": zip(examples.items, rows, strict=True),
        "words": zip(map(few_words, examples.items), rows, strict=True),
    }
    answers: dict[str, int] = {}
    for kind in recipe.data.texts:
        for text, row in kinds[kind]:
            answers.setdefault(text, row)
    return Texts(tuple(answers), np.array(list(answers.values()), dtype=np.int64))


def prepare_task(
    recipe: DistillRecipe, examples: Examples, lesson: Lesson, dev: Collection, *, same_title: bool
) -> DistillTask:
    """Load the student, give it the teacher's dimensions, and say what it learns.

    Raises:
        CommandError: there is no such model, or the recipe does not fit it.
    """
    model = load_to_train(recipe)
    prompt = prompts_of(model)["query"]
    data = fingerprint_of(examples, dev, same_title=same_title)
    digest = f"{data} {lesson.fingerprint}"
    prompted = tuple(prompt + text for text in lesson.learned.texts)
    lesson = replace(lesson, learned=replace(lesson.learned, texts=prompted))
    dev = replace(dev, query_texts=tuple(prompt + text for text in dev.query_texts))
    whole_tokens = shorten(model, recipe)
    if model.get_embedding_dimension() != lesson.vectors.shape[1]:
        with progress_bar("fitting the projection", total=None):
            model = with_projection(model, lesson, recipe)
    freeze(model, recipe)
    fingerprint = xxhash.xxh3_128_hexdigest(digest.encode())
    _, products = np.unique(examples.item_groups, return_inverse=True)
    return DistillTask(recipe, model, lesson, products, dev, same_title, whole_tokens, fingerprint)


def with_projection(model: Any, lesson: Lesson, recipe: DistillRecipe) -> Any:
    """Return the model with a linear layer from its pooled vectors to the teacher's dimensions.

    It starts from the least squares over the first texts, so that training starts near its end.
    """
    from sentence_transformers import SentenceTransformer

    pooled = SentenceTransformer(
        modules=kept_modules(model), device=str(model.device), prompts=model.prompts
    )
    texts = list(lesson.learned.texts[:PROJECTION_TEXTS_MAX])
    vectors = pooled.encode(
        texts, prompt="", batch_size=recipe.batches.mini_batch, show_progress_bar=False
    )
    weight, bias = least_squares(vectors.astype(np.float32), lesson.vectors[: len(texts)])
    return with_linear(model, weight, bias)


def least_squares(inputs: Floats, outputs: Floats) -> tuple[Floats, Floats]:
    """Return weight (m, d) and bias (m,) of the linear map nearest to outputs, slightly ridged.

    Args:
        inputs: shape (n, d).
        outputs: shape (n, m).

    >>> weight, bias = least_squares(np.float32([[0], [1], [2]]), np.float32([[1], [3], [5]]))
    >>> weight.round(2).tolist(), bias.round(2).tolist()
    ([[2.0]], [1.0])
    """
    mean_in, mean_out = inputs.mean(axis=0), outputs.mean(axis=0)
    centred = (inputs - mean_in).astype(np.float64)
    square = centred.T @ centred
    ridge = PROJECTION_RIDGE * np.trace(square) / len(square)
    square += ridge * np.eye(len(square))
    weight = np.linalg.solve(square, centred.T @ (outputs - mean_out)).T.astype(np.float32)
    return weight, (mean_out - weight @ mean_in).astype(np.float32)
