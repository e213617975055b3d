"""Which copies of a cache folder are in use, by this process or by others that share it."""

import fcntl
import shutil
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from index_service.generation.manifest import generation_folder


class CopiesInUse:
    """Locks beside the copies: shared while a copy is used, exclusive while it is removed.

    The files that are locked stay, empty: one that was removed would be locked by nobody's path.
    """

    def __init__(self, cache: Path) -> None:
        """Watch over a folder, which may not be there yet."""
        self._cache = cache
        self._held: defaultdict[int, list[BinaryIO]] = defaultdict(list)

    def begin(self, generation: int) -> None:
        """Keep a copy from being removed; waits while somebody removes it."""
        lock = self._open(generation)
        fcntl.flock(lock, fcntl.LOCK_SH)
        self._held[generation].append(lock)

    def end(self, generation: int) -> None:
        """Use a copy no more, once for each `begin`."""
        with suppress(IndexError):
            self._held[generation].pop().close()

    def remove_unused(self, generation: int) -> None:
        """Remove a copy, unless it is used."""
        with self._open(generation) as lock, suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(self._cache / generation_folder(generation), ignore_errors=True)

    def generations(self) -> list[int]:
        """Return the generations of which something is here."""
        return [int(path.name) for path in self._cache.glob("*") if path.name.isdecimal()]

    def _open(self, generation: int) -> BinaryIO:
        self._cache.mkdir(parents=True, exist_ok=True)
        return (self._cache / f".{generation_folder(generation)}.lock").open("ab")
