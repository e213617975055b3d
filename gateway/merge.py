"""Hits of several shards become one ranked list. Pure sums, no I/O."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hits:
    """Hits of one shard or of all: columns of one length, best first; a score is a cosine."""

    item_ids: tuple[str, ...]
    scores: tuple[float, ...]

    def __len__(self) -> int:
        """Return the number of hits."""
        return len(self.item_ids)

    def cut(self, start: int, stop: int) -> "Hits":
        """Return the hits at places start..stop-1, 0-based."""
        return Hits(self.item_ids[start:stop], self.scores[start:stop])

    def at_least(self, min_score: float) -> "Hits":
        """Return the hits that score `min_score` or more.

        >>> Hits(("a", "b"), (0.9, 0.2)).at_least(0.5)
        Hits(item_ids=('a',), scores=(0.9,))
        """
        num_kept = sum(score >= min_score for score in self.scores)
        return self.cut(0, num_kept)


def merge(lists: Iterable[Hits], top_k: int) -> Hits:
    """Return the best `top_k` hits of all lists, each item once, with its best score.

    The order is score descending, then item_id ascending (code points, which is UTF-8 byte order);
    it does not depend on the order of the lists.

    >>> merge([Hits(("b", "c"), (0.9, 0.5)), Hits(("a",), (0.9,))], top_k=2)
    Hits(item_ids=('a', 'b'), scores=(0.9, 0.9))
    """
    ranked = sorted(
        (-score, item_id)
        for hits in lists
        for item_id, score in zip(hits.item_ids, hits.scores, strict=True)
    )
    best: dict[str, float] = {}
    for negative_score, item_id in ranked:
        if len(best) == top_k:
            break
        best.setdefault(item_id, -negative_score)
    return Hits(tuple(best), tuple(best.values()))
