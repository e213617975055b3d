"""How a graph is spread over cores: one thread a text, all of them for one text, or either."""

import os
import statistics
import time
from collections.abc import Callable
from enum import StrEnum

# What is compared: texts of so many tokens, so often; every core is worth what it takes from others
# where it needs at most this share of one core's time.
_LENGTHS = (64, 32, 16, 8)
_RUNS = 7
_WORTH_IT = 0.9


class Layout(StrEnum):
    """What a lone text is run with. Texts that wait side by side always get one core each."""

    # Every core for one query at a time, wasteful for many.
    LATENCY = "latency"
    # One core a text.
    THROUGHPUT = "throughput"
    # Every core for a query that is alone and of a length for which that is faster here, measured
    # at start; one core a text as soon as several are there.
    AUTO = "auto"


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def spread_from(
    narrow: Callable[[int], object], wide: Callable[[int], object], max_tokens: int
) -> float:
    """Return from how many tokens on a text should have every core; infinite where never.

    Where reading weights is what takes the time, or cores share what multiplies, every core gains
    nothing for a short text. The longest is measured first, up to the first that gains nothing.

    Args:
        narrow: runs a text of so many tokens on one core.
        wide: runs it on every core.
        max_tokens: the longest text there is.
    """
    found = float("inf")
    for tokens in (length for length in _LENGTHS if length <= max_tokens):
        if _share(wide, narrow, tokens) > _WORTH_IT:
            return found
        found = float(tokens)
    return 0.0


def _share(wide: Callable[[int], object], narrow: Callable[[int], object], tokens: int) -> float:
    """Return what part of one core's time every core takes, both in turn, the first run aside."""
    spent_s: dict[str, list[float]] = {"wide": [], "narrow": []}
    for _ in range(_RUNS):
        for name, run in (("wide", wide), ("narrow", narrow)):
            started_s = time.perf_counter()
            run(tokens)
            spent_s[name].append(time.perf_counter() - started_s)
    return statistics.median(spent_s["wide"][1:]) / statistics.median(spent_s["narrow"][1:])
