"""What a generation will take of memory that the kernel cannot take back, and whether it is there.

Graph, vectors and ids are mapped: their pages are the file cache's, which shrinks when others need
room. What is counted here stays: what attributes are laid out as, numbers of nodes and rows, the
matches of remembered filters, and graph and ids where they are locked in memory.
"""

from collections.abc import Callable
from pathlib import Path
from threading import Lock

import psutil

from index_service.generation.manifest import (
    ATTRIBUTES_FILE,
    AttributeKind,
    Manifest,
    ShardEntry,
)
from index_service.segment import FILTER_BYTES_MAX
from rpc.errors import ResourceExhausted

_BYTES_A_ROW = 48
"""Levels and offsets of the graph, node of a row, rows of a node, and what grouping them takes."""
_BYTES_A_VALUE = 16
"""A value's row, the row once more among those that have the attribute, and where a keyword's rows
begin; numbers, which are in the file, too, are kept in order."""
_BYTES_A_VALUE_LAID_OUT = 48
"""Places and rows of one attribute's values while they are brought in order."""
_ATTRIBUTE_COPIES = 4
"""Text of keywords: in order, and as read, in one piece and sorted while that is made."""
_LIST_COPIES = 4
"""Keywords of lists have places, too, at least 4 bytes each in the file as in memory, and there are
more of them than items that have the attribute."""
_FIXED_BYTES = 8 * 1024 * 1024

_CGROUP_FILES = (
    # Limit, what is used, and how that divides: version 2, then 1.
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)
_CACHE_NAMES = ("file", "total_cache")
_LOCKED_NAMES = ("unevictable", "total_unevictable")


def needed_bytes(manifest: Manifest, shard: int, filters_cached_max: int) -> int:
    """Return an upper estimate of the anonymous memory that one shard of a generation takes.

    That is at its most while it is loaded: laying out an attribute takes more than is kept.

    Args:
        manifest: the generation's.
        shard: which shard.
        filters_cached_max: how many filters' matches may be remembered.
    """
    entry = manifest.shards[shard]
    # A remembered filter: a byte a row, a bit a row, a bit a node, and the bitmap.
    filters = filters_cached_max * entry.items * 1.4
    if filters_cached_max:
        filters += FILTER_BYTES_MAX
    rows = _BYTES_A_ROW * entry.items
    return int(_FIXED_BYTES + rows + _attribute_bytes(manifest, entry) + filters)


def _attribute_bytes(manifest: Manifest, entry: ShardEntry) -> float:
    """Return what columns take, and what laying one out takes meanwhile.

    Source of the factors: index_service/LOG.md, entry 15.
    """
    share = entry.items / manifest.items if manifest.items else 0.0
    values = [attribute.items_present * share for attribute in manifest.attributes]
    kinds = {attribute.type for attribute in manifest.attributes}
    copies = _ATTRIBUTE_COPIES + (_LIST_COPIES if AttributeKind.KEYWORD_LIST in kinds else 0)
    return (
        copies * entry.files[ATTRIBUTES_FILE].bytes
        + _BYTES_A_VALUE * sum(values)
        + _BYTES_A_VALUE_LAID_OUT * max(values, default=0.0)
    )


class MemoryBudget:
    """Says whether a further generation fits; safe to ask from any thread."""

    def __init__(self, budget_bytes: int = 0, available: Callable[[], int] | None = None) -> None:
        """Hold nothing yet.

        Args:
            budget_bytes: what all generations together may take; 0 for what is left.
            available: returns what is left in bytes; asked when there is no budget.
        """
        self._budget_bytes = budget_bytes
        self._available = available or available_bytes
        self._held: dict[int, int] = {}
        self._lock = Lock()

    @property
    def held_bytes(self) -> int:
        """What the generations here were estimated at, together."""
        with self._lock:
            return sum(self._held.values())

    def fits(self, needed: int) -> bool:
        """Tell whether so much could be counted in now."""
        with self._lock:
            return needed <= self._room()

    def reserve(self, generation: int, needed: int) -> None:
        """Count a generation in.

        Raises:
            ResourceExhausted: it does not fit beside the others.
        """
        with self._lock:
            room = self._room()
            if needed > room:
                raise ResourceExhausted(self._refusal(generation, needed, room), retry_after_s=10)
            self._held[generation] = needed

    def reserve_more(self, generation: int, more: int, spare: int = 0) -> bool:
        """Count in something that a generation can do without, where so much is left to spare.

        Returns:
            False where it does not fit; nothing is counted then.
        """
        with self._lock:
            if more + spare > self._room():
                return False
            self._held[generation] = self._held.get(generation, 0) + more
            return True

    def give_back(self, generation: int, less: int) -> None:
        """Count out what was reserved in addition, unless the generation was freed meanwhile."""
        with self._lock:
            if generation in self._held:
                self._held[generation] -= less

    def free(self, generation: int) -> None:
        """Count a generation out."""
        with self._lock:
            self._held.pop(generation, None)

    def _room(self) -> int:
        if not self._budget_bytes:
            return self._available()
        return self._budget_bytes - sum(self._held.values())

    def _refusal(self, generation: int, needed: int, room: int) -> str:
        beside = ", ".join(
            f"generation {each} ({_mib(size)})" for each, size in sorted(self._held.items())
        )
        limit = (
            f"the memory budget of {_mib(self._budget_bytes)}"
            if self._budget_bytes
            else "the memory of this machine or container"
        )
        return (
            f"generation {generation} needs about {_mib(needed)} of memory"
            + (f" beside {beside}" if beside else "")
            + f"; {limit} leaves {_mib(max(0, room))}. Release a generation, raise "
            "MEMORY_BUDGET_BYTES, lower FILTERS_CACHED_MAX, or cut it into more shards"
        )


def available_bytes() -> int:
    """Return what may still be taken: of the machine, and of the container's limit."""
    left = [psutil.virtual_memory().available]
    left += [_left_of(*map(Path, files)) for files in _CGROUP_FILES if Path(files[0]).exists()]
    return min(left)


def _left_of(limit_file: Path, used_file: Path, stat_file: Path) -> int:
    """Return what a control group leaves; file cache gives way, unless it is locked in memory."""
    limit = limit_file.read_text().strip()
    if limit == "max":
        return 2**63
    stat = dict(line.split() for line in stat_file.read_text().splitlines())
    cache, locked = (
        next((int(stat[name]) for name in names if name in stat), 0)
        for names in (_CACHE_NAMES, _LOCKED_NAMES)
    )
    return int(limit) - (int(used_file.read_text()) - max(0, cache - locked))


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
