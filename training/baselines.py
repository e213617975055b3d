"""BM25, the lexical baseline: bm25s, stemmed, with k1 and b tuned on dev."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import bm25s
import numpy as np
import Stemmer
from numpy.typing import NDArray

from rpc.terminal import progress_bar
from training.fusion import NO_ROW

Rows = NDArray[np.int64]
Floats = NDArray[np.float32]

K1 = 1.2
B = 0.75
K1_TRIED = (0.6, 1.2, 2.0)
B_TRIED = (0.4, 0.75, 0.9)


@dataclass(frozen=True, slots=True)
class Bm25Parameters:
    """How fast a repeated word stops counting, and how much a long item pays for its length."""

    k1: float = K1
    b: float = B


DEFAULT = Bm25Parameters()


class Bm25:
    """An index over items: lower case, English stop words left out, Snowball stems.

    Args:
        tokenized: the items' texts, by `tokenize`.
        parameters: k1 and b.
    """

    def __init__(self, tokenized: Any, parameters: Bm25Parameters = DEFAULT) -> None:
        self.parameters = parameters
        self._index = _index(tokenized, parameters)

    def search(self, queries: Sequence[str], k: int) -> tuple[Rows, Floats]:
        """Return rows and scores of the best items of each query, ties by row, ascending.

        Args:
            queries: what was typed.
            k: hits a query; all items when there are fewer.

        Returns:
            int64 and float32 of shape (q, k); row -1 and score 0 where no more items share a word
            with the query.
        """
        kept = min(k, int(self._index.scores["num_docs"]))
        rows = np.empty((len(queries), kept), np.int64)
        points = np.empty((len(queries), kept), np.float32)
        for at, words in enumerate(tokenize(queries, ids=False)):
            scores = self._index.get_scores_from_ids(self._index.get_tokens_ids(words))
            rows[at] = _best(scores, kept)
            points[at] = scores[rows[at]]
        rows[points <= 0] = NO_ROW
        return rows, points


def tune(
    tokenized: Any, measure: Callable[[Bm25], float]
) -> tuple[Bm25Parameters, dict[str, float]]:
    """Return the parameters that measure best, and what each measured; the first of equals.

    Args:
        tokenized: the items' texts, by `tokenize`.
        measure: what an index is worth, on queries that no result is reported on.
    """
    found: dict[Bm25Parameters, float] = {}
    tried = [Bm25Parameters(k1, b) for k1, b in product(K1_TRIED, B_TRIED)]
    with progress_bar("tuning BM25", len(tried)) as advance:
        for parameters in tried:
            found[parameters] = measure(Bm25(tokenized, parameters))
            advance(1)
    best = max(found, key=lambda parameters: found[parameters])
    return best, {f"k1={each.k1} b={each.b}": value for each, value in found.items()}


def _best(scores: Floats, k: int) -> Rows:
    """Return the rows of the k best; of equals at the end, which bm25s cuts as it comes, the first.

    >>> _best(np.float32([1, 2, 1, 3, 1]), 3).tolist()
    [3, 1, 0]
    """
    last = np.partition(scores, -k)[-k]
    above = np.flatnonzero(scores > last)
    equal = np.flatnonzero(scores == last)[: k - len(above)]
    rows = np.concatenate([above, equal])
    found: Rows = rows[np.lexsort((rows, -scores[rows]))]
    return found


def _index(tokenized: Any, parameters: Bm25Parameters) -> Any:
    index = bm25s.BM25(k1=parameters.k1, b=parameters.b, method="lucene")
    index.index(tokenized, show_progress=False)
    return index


def tokenize(texts: Sequence[str], *, ids: bool = True) -> Any:
    """Return texts as bm25s takes them: items by ids and vocabulary, or lists of stems."""
    stemmer = Stemmer.Stemmer("english")
    return bm25s.tokenize(
        list(texts), stopwords="en", stemmer=stemmer, return_ids=ids, show_progress=False
    )
