"""What every engine that Vitrine is compared with can do, and which there are.

This module and the engines run in an interpreter that has the engines' libraries; each library is
imported only by the engine that needs it.
"""

import importlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
SERVICES = ("chroma", "pgvector", "lancedb", "milvus_lite")
IN_PROCESS = ("hnswlib", "usearch", "faiss_hnsw_flat", "faiss_flat")
OWN = "vitrine"
"""This project's own shards, without its services."""
TOP_K = 10
VALUES_MAX = 1_000
"""Largest value of a search parameter; pgvector allows no more."""


class Found(NamedTuple):
    """One result, with the metadata that a caller wants."""

    item_id: str
    title: str
    attributes: str


Search = Callable[[Floats], Sequence[Found]]
"""Returns the best ten for a vector of shape (dim,)."""


class Absent(Exception):
    """The engine is not installed, or cannot be used here."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to search an engine, and the range of its one parameter; lowest is highest for none."""

    name: str
    parameter: str
    lowest: int = TOP_K
    highest: int = VALUES_MAX


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard an engine is to try."""

    variant: str
    value: int


@dataclass(frozen=True, slots=True)
class Corpus:
    """The items in a folder, as `benchmarks.peer_corpus` writes them."""

    folder: Path

    @property
    def vectors(self) -> Floats:
        """Map the vectors, shape (items, dim)."""
        vectors: Floats = np.load(self.folder / "vectors.npy", mmap_mode="r")
        return vectors

    def items(self) -> Iterator[Found]:
        """Yield what is kept of each item, in the order of the vectors."""
        with (self.folder / "items.jsonl").open(encoding="utf-8") as lines:
            for line in lines:
                yield Found(*json.loads(line))

    def batches(self, size: int) -> Iterator[tuple[list[Found], Floats]]:
        """Yield items with their vectors, so many at a time."""
        vectors, items = self.vectors, self.items()
        for start in range(0, len(vectors), size):
            some = np.array(vectors[start : start + size])
            yield [next(items) for _ in some], some


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Where an engine keeps its data, where it listens, and how its graph is built."""

    folder: Path
    port: int
    m: int
    ef_construction: int
    cores: int
    items: int
    dim: int


class Engine(Protocol):
    """An engine under test; `load` once, then `open` in a process that only searches."""

    versions: dict[str, str]
    settings: dict[str, Any]
    variants: tuple[Variant, ...]

    def __init__(self, options: EngineOptions) -> None:
        """Import the library."""

    def load(self, corpus: Corpus) -> None:
        """Take in all items and build the index; searches are fast once this returns."""

    def open(self) -> None:
        """Get ready to search what was loaded before."""

    def tune(self, effort: Effort) -> None:
        """Make the searchers opened from now on try so hard."""

    def searcher(self) -> AbstractContextManager[Search]:
        """Return how one caller's thread searches."""

    def process_ids(self) -> list[int]:
        """Return the engine's own processes; none for one that lives in its client's process."""

    def close(self) -> None:
        """Stop what was started."""


def open_engine(name: str, options: EngineOptions) -> Engine:
    """Return an engine that can be loaded or opened.

    Raises:
        Absent: its library is not installed.
    """
    module, kind = _KINDS[name]
    try:
        engine: Engine = getattr(importlib.import_module(module), kind)(options)
    except ImportError as exc:
        raise Absent(f"not installed: {exc}") from exc
    return engine


def versions_of(*packages: str) -> dict[str, str]:
    """Return the versions of installed packages."""
    return {package: version(package) for package in packages}


_KINDS = {
    "chroma": ("benchmarks.peer_servers", "Chroma"),
    "pgvector": ("benchmarks.peer_pgvector", "Pgvector"),
    "milvus_lite": ("benchmarks.peer_servers", "MilvusLite"),
    "lancedb": ("benchmarks.peer_embedded", "LanceDb"),
    "hnswlib": ("benchmarks.peer_embedded", "Hnswlib"),
    "usearch": ("benchmarks.peer_embedded", "Usearch"),
    "faiss_hnsw_flat": ("benchmarks.peer_embedded", "FaissHnswFlat"),
    "faiss_flat": ("benchmarks.peer_embedded", "FaissFlat"),
    OWN: ("benchmarks.peer_own", "OwnShards"),
}
