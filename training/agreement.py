"""How near what an encoder makes is to what full precision makes, as one number; 1 is the same."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Agreement = Callable[[Floats, Floats], float]


def cosines(left: Floats, right: Floats) -> Doubles:
    """Return the cosine of each pair of rows; both sides have unit rows.

    >>> cosines(np.eye(2, dtype=np.float32), np.ones((2, 2), np.float32) / 2).tolist()
    [0.5, 0.5]
    """
    summed: Doubles = (left.astype(np.float64) * right.astype(np.float64)).sum(axis=1)
    return summed


def mean_cosine(got: Floats, expected: Floats) -> float:
    """Return the mean cosine of embeddings of shape (n, dim), unit rows."""
    return float(cosines(got, expected).mean())


def pearson(got: Floats, expected: Floats) -> float:
    """Return the correlation of scores of shape (n, 1); 0 where one side is all the same.

    >>> round(pearson(np.float32([[1], [2], [3]]), np.float32([[5], [7], [9]])), 6)
    1.0
    """
    left, right = (_centred(side) for side in (got, expected))
    lengths = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / lengths if lengths > 0.0 else 0.0


def spearman(got: Floats, expected: Floats) -> float:
    """Return the rank correlation of scores of shape (n, 1).

    >>> round(spearman(np.float32([[1], [5], [9]]), np.float32([[0.1], [0.2], [0.3]])), 6)
    1.0
    """
    return pearson(_ranks(got), _ranks(expected))


def _centred(values: Floats) -> Doubles:
    flat = values.reshape(-1).astype(np.float64)
    centred: Doubles = flat - flat.mean()
    return centred


def _ranks(scores: Floats) -> Floats:
    order = np.argsort(scores.reshape(-1), kind="stable")
    return np.argsort(order).astype(np.float32)
