"""What a cross-encoder learns: to put a review's item above what a bi-encoder mistakes for it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from rpc.terminal import CommandError, progress_bar
from training.batches import Batch, batches_of
from training.beir import Collection
from training.bi_encoder_task import fingerprint_of
from training.embeddings import TextEncoder, embed_as
from training.examples import Examples
from training.fusion import Hits
from training.losses import ListLoss, build_reranker_loss
from training.mining import mine, window_of
from training.model_source import find_model
from training.ranking import evaluate, exact_top_k, run_of
from training.recipe import RerankerRecipe
from training.reranking import rerank
from training.torch_reranker import load_model, score_pairs
from training.trainer import best_device, freeze, shorten

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Candidates:
    """What a bi-encoder finds: the vectors to mine with, and its first hits for dev.

    Attributes:
        queries, items: unit float32, parallel to those of the examples.
        hits: for the queries of dev.
    """

    queries: Floats
    items: Floats
    hits: Hits


@dataclass(slots=True)
class RerankerTask:
    """A cross-encoder and what it learns from.

    Attributes:
        recipe: how.
        model: the cross-encoder.
        examples: pairs.
        dev: what the best weights are chosen on.
        same_title: the items that answer a query of dev count as one.
        candidates: of the bi-encoder.
        cost: the loss of queries and their lists.
        fingerprint: stands for examples, dev and bi-encoder.
        measure: what dev is measured by, over the reranked hits.
    """

    recipe: RerankerRecipe
    model: Any
    examples: Examples
    dev: Collection
    same_title: bool
    candidates: Candidates
    cost: ListLoss
    fingerprint: str
    measure: str = "ndcg@10"

    def batches(self, epoch: int) -> list[Batch]:
        """Return the batches of an epoch, 0-based."""
        return batches_of(self.recipe, self.examples.groups, self.examples.queries, epoch)

    def loss(self, batch: Batch, negatives: Rows | None) -> torch.Tensor:
        """Return a batch's loss."""
        assert negatives is not None
        queries = [self.examples.queries[place] for place in batch]
        return self.cost(queries, self.examples.lists(batch, negatives))

    def measure_dev(self) -> float:
        """Return nDCG@10 of the bi-encoder's first hits, reranked."""
        hits = self.candidates.hits
        pairs = [
            (query, self.dev.item_texts[row])
            for query, rows in zip(self.dev.query_texts, hits.rows.tolist(), strict=True)
            for row in rows
        ]
        scores = score_pairs(self.model, pairs, self.recipe.batches.mini_batch)
        return self.worth_of(rerank(hits, list(scores.reshape(hits.rows.shape))))

    def worth_of(self, hits: Hits) -> float:
        """Return nDCG@10 of hits for the queries of dev."""
        found = run_of(self.dev.query_ids, self.dev.item_ids, hits.rows)
        means = evaluate(self.dev.qrels, found, [self.measure], as_one=self.same_title).means
        return means[self.measure]

    def mine(self, epoch: int, *, known: bool) -> Rows | None:
        """Return what the bi-encoder ranks high and is of another product."""
        examples, wanted = self.examples, self.recipe.negatives
        if known and not wanted.refresh:
            return None
        return mine(
            self.candidates.queries,
            self.candidates.items,
            examples.groups,
            examples.item_groups,
            examples.positives,
            window_of(wanted),
            seed=self.recipe.run.seed + epoch,
        )

    def finished(self) -> Any:
        """Return the model as it is written: with the limit it learned with."""
        return self.model


def prepare_task(
    recipe: RerankerRecipe,
    examples: Examples,
    dev: Collection,
    candidates: Candidates,
    encoder: TextEncoder,
    *,
    same_title: bool,
) -> RerankerTask:
    """Load the cross-encoder, or put a new head on a bi-encoder, and say what it learns.

    Raises:
        CommandError: there is no such model, or the recipe does not fit it.
    """
    if len(set(examples.item_groups)) < 2:
        raise CommandError("the pairs are all of one product; there is nothing to rank below it")
    torch.manual_seed(recipe.run.seed)  # of a new head
    source = find_model(recipe.model.base)
    with progress_bar("loading the model", total=None):
        model: Any = load_model(source, new_head=True)
    model.to(best_device())
    # The limit stays in the model: what a pair takes when it is served follows from it.
    shorten(model, recipe)
    freeze(model, recipe)
    data = fingerprint_of(examples, dev, same_title=same_title)
    digest = xxhash.xxh3_128_hexdigest(f"{data} {encoder.fingerprint}".encode())
    cost = build_reranker_loss(model, recipe)
    return RerankerTask(
        recipe, model, examples, dev, same_title, candidates, cost, fingerprint=digest
    )


def find_candidates(
    recipe: RerankerRecipe, examples: Examples, dev: Collection, encoder: TextEncoder, cache: Path
) -> Candidates:
    """Return what a bi-encoder finds for the pairs and for dev; its vectors are kept in `cache`."""
    found = exact_top_k(
        embed_as(encoder, "query", dev.query_texts, cache),
        embed_as(encoder, "item", dev.item_texts, cache),
        recipe.run.dev_depth,
    )
    return Candidates(
        embed_as(encoder, "query", examples.queries, cache),
        embed_as(encoder, "item", examples.items, cache),
        Hits(*found),
    )
