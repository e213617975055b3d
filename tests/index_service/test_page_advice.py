"""Pages that are asked for are read, in one call or in one each."""

import mmap
import os
import time

import numpy as np
import pytest

from index_service import page_advice
from index_service.page_advice import will_need

PAGES = 3_000


@pytest.fixture
def mapped(tmp_path):
    path = tmp_path / "pages"
    path.write_bytes(os.urandom(PAGES * mmap.PAGESIZE))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        yield mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def in_memory(mapped):
    """Return which pages are in the file cache."""
    content = np.frombuffer(mapped, dtype=np.uint8)
    found = np.zeros(PAGES, dtype=np.uint8)
    assert not page_advice._libc.mincore(
        page_advice.ctypes.c_void_p(content.ctypes.data),
        page_advice.ctypes.c_size_t(content.nbytes),
        page_advice.ctypes.c_void_p(found.ctypes.data),
    )
    return (found & 1).astype(bool)


@pytest.mark.parametrize("at_once", [True, False])
def test_pages_that_are_asked_for_are_read(mapped, at_once, monkeypatch):
    if at_once and not page_advice._takes_many(os.getpid()):
        pytest.skip("this kernel takes one range a call")
    monkeypatch.setattr(page_advice, "_takes_many", lambda process: at_once)
    mapped.madvise(mmap.MADV_RANDOM)
    if in_memory(mapped).any():
        pytest.skip("this file system keeps dropped pages in memory")
    # More than one call takes.
    asked = np.arange(0, PAGES, 2)
    start = np.frombuffer(mapped, dtype=np.uint8).ctypes.data
    will_need(start + asked * mmap.PAGESIZE, np.full(len(asked), mmap.PAGESIZE))
    stop_s = time.monotonic() + 10
    while not in_memory(mapped)[asked].all() and time.monotonic() < stop_s:
        time.sleep(0.01)
    found = in_memory(mapped)
    assert found[asked].all()
    assert not found[1::2].all()


def test_nothing_is_asked_for():
    none = np.empty(0, dtype=np.int64)
    will_need(none, none)


def test_a_kernel_without_the_call_is_asked_for_one_range_after_the_other(monkeypatch):
    monkeypatch.setattr(page_advice, "_process_madvise", None)
    page_advice._takes_many.cache_clear()
    try:
        assert not page_advice._takes_many(os.getpid())
    finally:
        page_advice._takes_many.cache_clear()
