"""What generations take of memory: counted in before they load, locked while there is room."""

from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from index_service.locked import LockedFile
from index_service.memory import MemoryBudget


class GenerationMemory:
    """Counts generations into a budget and keeps files of theirs in memory; any thread may ask."""

    def __init__(self, budget: MemoryBudget, lock_files: bool) -> None:
        self._budget = budget
        self._lock_files = lock_files
        self._locked: dict[int, tuple[LockedFile, ...]] = {}
        self._changing = Lock()

    def reserve(self, generation: int, needed: int) -> None:
        """Count a generation in; where it fits so, others do without what they have locked.

        Raises:
            ResourceExhausted: it does not fit even so; what is locked stays so.
        """
        with self._changing:
            locked = sum(file.size for files in self._locked.values() for file in files)
            if not self._budget.fits(needed) and self._budget.fits(needed - locked):
                self._unlock_all()
        self._budget.reserve(generation, needed)

    def lock(self, generation: int, paths: Sequence[Path]) -> bool:
        """Keep files in memory, if there is room for all of them and the system lets us.

        Returns:
            False where they stay as they are, with whatever the file cache has of them.
        """
        if not self._lock_files:
            return False
        size = sum(path.stat().st_size for path in paths)
        # Something stays for what the kernel takes back at will: it would kill the process else.
        if not self._budget.reserve_more(generation, size, spare=size // 2):
            return False
        try:
            locked = tuple(LockedFile(path) for path in paths)
        except OSError:
            self._budget.give_back(generation, size)
            return False
        with self._changing:
            self._locked[generation] = locked
        return True

    def free(self, generation: int) -> None:
        """Unlock a generation's files and count it out."""
        with self._changing:
            for file in self._locked.pop(generation, ()):
                file.close()
            self._budget.free(generation)

    def locked(self, generation: int) -> int:
        """Return how many bytes of a generation's files are locked."""
        with self._changing:
            return sum(file.size for file in self._locked.get(generation, ()))

    def _unlock_all(self) -> None:
        """Let the kernel take back what generations have locked."""
        for generation, files in self._locked.items():
            for file in files:
                file.close()
            self._budget.give_back(generation, sum(file.size for file in files))
        self._locked.clear()
