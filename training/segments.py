"""The segments that queries are in, and a measure by segment.

A query's segments are the category of its product, the length of the review, how many of the words
of the product's title stand in it, how many reviews the product has, and, where the data set has a
train split, whether any of its items was trained on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.beir import read_judgements
from training.topics import Topic

SEGMENT_QUERIES_MIN = 30
TRAINING = "training"
UNSEEN, SEEN = "unseen items", "seen items"


@dataclass(frozen=True, slots=True)
class Queries:
    """The judged queries of a split, in the order of the judgements.

    Attributes:
        products: the product of each.
        segments: kind -> segment -> places of its queries.
    """

    products: tuple[str, ...]
    segments: Mapping[str, Mapping[str, NDArray[np.int64]]]

    def means(self, values: NDArray[np.float64]) -> dict[str, dict[str, tuple[int, float]]]:
        """Return kind -> segment -> (queries, mean) of segments that are large enough.

        Args:
            values: of a measure, float64 of shape (queries,).
        """
        return {
            kind: {
                segment: (len(places), float(values[places].mean()))
                for segment, places in segments.items()
                if self._is_shown(places)
            }
            for kind, segments in self.segments.items()
        }

    def too_small(self) -> dict[str, dict[str, int]]:
        """Return kind -> number of segments that are too small, and of the queries in them."""
        small = {
            kind: [len(places) for places in segments.values() if not self._is_shown(places)]
            for kind, segments in self.segments.items()
        }
        return {k: {"segments": len(s), "queries": sum(s)} for k, s in small.items() if s}

    def _is_shown(self, places: NDArray[np.int64]) -> bool:
        return len(places) >= min(SEGMENT_QUERIES_MIN, len(self.products))


def read_queries(
    folder: Path, qrels: Mapping[str, Mapping[str, int]], topics: Mapping[str, Topic]
) -> Queries:
    """Return what is known of the judged queries.

    Args:
        folder: of the data set.
        qrels: query id -> item id -> grade.
        topics: what is known of some queries, by id.
    """
    trained = trained_items(folder)
    found: dict[str, dict[str, list[int]]] = {}
    for place, (query_id, grades) in enumerate(qrels.items()):
        segments = dict(topics[query_id].segments) if query_id in topics else {}
        if trained is not None:
            right = (item_id for item_id, grade in grades.items() if grade > 0)
            segments[TRAINING] = UNSEEN if trained.isdisjoint(right) else SEEN
        for kind, segment in segments.items():
            found.setdefault(kind, {}).setdefault(segment, []).append(place)
    return Queries(
        tuple(topics[each].product if each in topics else each for each in qrels),
        {
            kind: {each: np.array(segments[each]) for each in sorted(segments, key=_in_order)}
            for kind, segments in found.items()
        },
    )


def trained_items(folder: Path) -> frozenset[str] | None:
    """Return the items that a pair of the train split has; None without such a split."""
    path = folder / "qrels" / "train.tsv"
    if not path.is_file():
        return None
    return frozenset(item_id for _, item_id, grade in read_judgements(path) if grade > 0)


def _in_order(segment: str) -> tuple[int, str]:
    """Return a key that orders ranges by their first number, and other names by the alphabet.

    >>> sorted(["101 words and more", "21-50 words", "Baby"], key=_in_order)
    ['Baby', '21-50 words', '101 words and more']
    """
    number = segment.partition(" ")[0].partition("-")[0]
    return (int(number) if number.isdecimal() else 0, segment)
