"""How a graph is spread over cores: one thread a text, all of them for one text, or either."""

import os
from enum import StrEnum


class Layout(StrEnum):
    """What a lone text is run with. Texts that wait side by side always get one core each."""

    # Every core for one query at a time: shortest for a lone query, wasteful for many.
    LATENCY = "latency"
    # One core a text.
    THROUGHPUT = "throughput"
    # Every core for a query that is alone, one core a text as soon as several are there.
    AUTO = "auto"


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))
