"""Telling the kernel which pages of mapped files will be read, so that it reads many at once."""

import ctypes
import mmap
import os
from functools import cache

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]

_RANGES_MAX = 1024
"""Most ranges that the kernel takes in one call (IOV_MAX)."""

_libc = ctypes.CDLL(None)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_process_madvise = getattr(_libc, "process_madvise", None)
if _process_madvise is not None:
    _process_madvise.restype = ctypes.c_ssize_t
    _process_madvise.argtypes = (
        ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_uint,
    )  # fmt: skip


def will_need(starts: Numbers, lengths: Numbers) -> None:
    """Ask for the pages of ranges of memory; those that are missing are read in the background.

    In one call where this kernel takes many ranges in one (process_madvise(2)), else in one each,
    which takes three times as long. An error is no matter: it is advice.

    Args:
        starts: addresses, multiples of the page size, shape (n,).
        lengths: bytes, shape (n,).
    """
    process = os.getpid()
    if _takes_many(process):
        ranges = np.stack((starts, lengths), axis=1)
        for at in range(0, len(ranges), _RANGES_MAX):
            _advise_many(ranges[at : at + _RANGES_MAX], process)
        return
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        _libc.madvise(start, length, mmap.MADV_WILLNEED)


@cache
def _takes_many(process: int) -> bool:
    """Tell whether this process may advise on many ranges of its own memory in one call.

    Older kernels let only privileged processes do so, or do not know this advice.
    """
    return _advise_many(np.empty((0, 2), dtype=np.int64), process)


def _advise_many(ranges: Numbers, process: int) -> bool:
    """Ask for ranges, rows of address and length; False where that cannot be done."""
    if _process_madvise is None:
        return False
    handle = _own_handle(process)
    advised = _process_madvise(handle, ranges.ctypes.data, len(ranges), mmap.MADV_WILLNEED, 0)
    return bool(advised >= 0)


@cache
def _own_handle(process: int) -> int:
    """Return a descriptor of this process, kept open as long as it lives; -1 for none."""
    try:
        return os.pidfd_open(process)
    except OSError:
        return -1
