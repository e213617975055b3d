"""Hard negatives: what the model ranks high for a review and is another product."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.recipe import WindowSection

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Window:
    """Which of the items found are taken; see `recipe.WindowSection`."""

    per_pair: int
    rank_first: int
    rank_last: int
    margin: float


def window_of(section: WindowSection) -> Window:
    """Return what a recipe asks for."""
    return Window(section.per_pair, section.rank_first, section.rank_last, section.margin)


def mine(
    queries: Floats,
    items: Floats,
    query_groups: Sequence[str],
    item_groups: Sequence[str],
    positives: Rows,
    window: Window,
    seed: int,
) -> Rows:
    """Return rows of items as negatives, int64 of shape (q, per_pair); -1 where none was found.

    Args:
        queries: unit float32 of shape (q, dim).
        items: unit float32 of shape (n, dim).
        query_groups: each query's product group.
        item_groups: each item's product group.
        positives: each query's right item, int64 of shape (q,).
        window: which ranks and scores to take.
        seed: says which of the candidates are taken.
    """
    # A product may have several titles, which take ranks and are left out.
    depth = min(len(items), window.rank_last + 10)
    rows, scores = search(queries, items, depth)
    right = np.einsum("qd,qd->q", queries, items[positives])
    draw = np.random.default_rng(seed)
    chosen = np.full((len(queries), window.per_pair), -1, dtype=np.int64)
    for query, group in enumerate(query_groups):
        other = np.array([item_groups[row] != group for row in rows[query]])
        candidates = in_window(rows[query][other], scores[query][other], right[query], window)
        taken = draw.permutation(candidates)[: window.per_pair]
        chosen[query, : len(taken)] = taken
    return chosen


def in_window(rows: Rows, scores: Floats, positive_score: float, window: Window) -> Rows:
    """Return the rows of the ranks wanted whose score leaves the margin.

    >>> found = Window(per_pair=1, rank_first=2, rank_last=4, margin=0.1)
    >>> in_window(np.arange(5), np.array([0.9, 0.8, 0.5, 0.4, 0.3]), 0.6, found).tolist()
    [2, 3]
    """
    ranked = slice(window.rank_first - 1, window.rank_last)
    # A share of a score below zero would lie above it.
    allowed = positive_score - window.margin * abs(positive_score)
    taken: Rows = rows[ranked][scores[ranked] <= allowed]
    return taken


def search(queries: Floats, items: Floats, depth: int) -> tuple[Rows, Floats]:
    """Return the rows and scores of the best items of each query, exactly, by FAISS."""
    import faiss

    index = faiss.IndexFlatIP(items.shape[1])
    index.add(np.ascontiguousarray(items))
    scores, rows = index.search(np.ascontiguousarray(queries), depth)
    return rows, scores
