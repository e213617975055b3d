"""Vectors of texts that were embedded before, in append-only files: one record a text.

A record is the text's xxh3_128, a checksum and the vector in float16. A process that is killed
leaves at most one incomplete record at the end of its file, which readers pass over; each process
writes a file of its own, so nothing that was written is ever changed.
"""

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

Halves = NDArray[np.float16]
Hashes = NDArray[Any]  # structured: high and low half of a 128-bit hash

HASH_DTYPE = np.dtype([("high", "<u8"), ("low", "<u8")])
_SUFFIX = ".vectors"
_ROWS_CHECKED_AT_ONCE = 65_536


def hash_text(text: str) -> tuple[int, int]:
    """Return the two halves of a text's xxh3_128.

    >>> hash_text("red dress") == hash_text("red dress"), hash_text("") == hash_text(" ")
    (True, False)
    """
    digest = xxhash.xxh3_128_intdigest(text.encode())
    return digest >> 64, digest & 0xFFFF_FFFF_FFFF_FFFF


class VectorCache:
    """One encoder's cached vectors in a folder. Reads what was there when it was opened."""

    def __init__(self, folder: Path, dim: int) -> None:
        """Open the cache and check every record in it.

        Args:
            folder: where the files of this encoder are; made when missing.
            dim: length of a vector.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._record = np.dtype([("hash", HASH_DTYPE), ("check", "<u8"), ("vector", "<f2", (dim,))])
        self._files = [self._map(path) for path in sorted(folder.glob(f"*{_SUFFIX}"))]
        self._index()

    def find(self, hashes: Hashes) -> NDArray[np.int64]:
        """Return each hash's position in the cache, -1 for those it lacks."""
        if not self._keys.size:
            return np.full(hashes.shape, -1, dtype=np.int64)
        slots = np.searchsorted(self._keys["high"], hashes["high"])
        slots = np.minimum(slots, self._keys.size - 1)
        found = self._keys[slots] == hashes
        return np.where(found, self._positions[slots], -1)

    def read(self, positions: NDArray[np.int64]) -> Halves:
        """Return the vectors at positions that `find` gave, shape (n, dim)."""
        numbers = np.searchsorted(self._starts, positions, side="right") - 1
        vectors = np.empty((positions.size, self._record["vector"].shape[0]), dtype="<f2")
        for number in np.unique(numbers):
            here = numbers == number
            vectors[here] = self._files[number]["vector"][positions[here] - self._starts[number]]
        return vectors

    def writer(self) -> "CacheWriter":
        """Return a writer of a new file."""
        number = len(list(self._folder.glob(f"*{_SUFFIX}")))
        return CacheWriter(self._folder / f"{number:06d}-{os.getpid()}{_SUFFIX}", self._record)

    def _map(self, path: Path) -> NDArray[Any]:
        """Map a file's complete records."""
        count = path.stat().st_size // self._record.itemsize
        if not count:
            return np.empty(0, dtype=self._record)
        return np.memmap(path, dtype=self._record, mode="r", shape=(count,))

    def _index(self) -> None:
        """Sort the hashes of all sound records by their high half."""
        sizes = [len(records) for records in self._files]
        self._starts = np.concatenate(([0], np.cumsum(sizes)))[:-1].astype(np.int64)
        keys = [records["hash"][_sound(records)] for records in self._files]
        rows = [
            np.flatnonzero(_sound(records)) + start
            for records, start in zip(self._files, self._starts, strict=True)
        ]
        all_keys = np.concatenate(keys) if keys else np.empty(0, dtype=HASH_DTYPE)
        order = np.argsort(all_keys["high"], kind="stable")
        self._keys = all_keys[order]
        self._positions = (np.concatenate(rows) if rows else np.empty(0, np.int64))[order]


class CacheWriter:
    """Appends records to one file; safe to use from several threads."""

    def __init__(self, path: Path, record: np.dtype[Any]) -> None:
        """Make the file."""
        self._file = path.open("xb")
        self._record = record
        self._lock = threading.Lock()

    def append(self, hashes: Hashes, vectors: Halves) -> None:
        """Write records through to the operating system: they survive the end of this process."""
        records = np.empty(len(hashes), dtype=self._record)
        records["hash"] = hashes
        records["vector"] = vectors
        records["check"] = _checks(records["vector"])
        with self._lock:
            self._file.write(records.tobytes())
            self._file.flush()

    def __enter__(self) -> "CacheWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()


def hashes_of(texts: Sequence[str]) -> Hashes:
    """Return the texts' hashes, shape (n,)."""
    return np.array([hash_text(text) for text in texts], dtype=HASH_DTYPE)


def _sound(records: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell which records are as they were written; a power cut can leave others."""
    sound = np.zeros(len(records), dtype=np.bool_)
    for start in range(0, len(records), _ROWS_CHECKED_AT_ONCE):
        part = records[start : start + _ROWS_CHECKED_AT_ONCE]
        sound[start : start + len(part)] = _checks(part["vector"]) == part["check"]
    return sound


def _checks(vectors: Halves) -> NDArray[np.uint64]:
    packed = np.ascontiguousarray(vectors)
    return np.array([xxhash.xxh3_64_intdigest(row) for row in packed], dtype=np.uint64)
