"""Freed memory goes back to the system."""

import ctypes

_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_back_freed() -> None:
    """Give the system what was freed and is kept for later; where the C library can, glibc's.

    It takes some milliseconds, during which other threads that need memory wait: call it after
    what happens rarely and frees much. Source: malloc_trim(3).
    """
    if _trim is not None:
        _trim(0)
