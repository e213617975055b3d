"""Waiting for what must come: a condition, asked again and again, with an end."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
POLL_S = 0.02


def eventually(condition: Callable[[], T], what: str, timeout_s: float = 20.0) -> T:
    """Return the condition's first true value.

    Raises:
        AssertionError: it did not come in time.
    """
    deadline_s = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline_s, f"waited {timeout_s:g} s in vain: {what}"
        time.sleep(POLL_S)
    return value
