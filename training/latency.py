"""How long one query takes, for reports."""

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import TypeVar

from threadpoolctl import threadpool_limits

T = TypeVar("T")


def median_ms(run: Callable[[T], object], inputs: Sequence[T]) -> float:
    """Return the p50 of running each input once, in milliseconds, after one run to warm up."""
    run(inputs[0])
    spent_s = []
    for each in inputs:
        started_s = time.perf_counter()
        run(each)
        spent_s.append(time.perf_counter() - started_s)
    return round(1e3 * median(spent_s), 3)


def lone_ms(run: Callable[[T], object], inputs: Sequence[T]) -> float:
    """Return the same of what runs on one thread."""
    with threadpool_limits(limits=1):
        return median_ms(run, inputs)
