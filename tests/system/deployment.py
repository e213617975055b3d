"""An installation: a home that the command line built, and the services that run from it."""

import gzip
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.ipc
from numpy.typing import NDArray

from protos.vitrine.v1 import search_pb2
from tests.system.processes import Process, Ran, reap, succeed, vitrine
from tests.system.wire import Stubs

NUM_ITEMS = 1_500
NUM_TWINS = 100
NUM_SHARDS = 4
SEARCH_TIMEOUT_S = 20.0


def read_items(path: Path) -> list[dict[str, Any]]:
    """Return the records of a sample catalogue."""
    with gzip.open(path) as lines:
        return [orjson.loads(line) for line in lines]


def write_items(path: Path, items: Iterable[dict[str, Any]]) -> None:
    """Write records as a catalogue file."""
    with gzip.open(path, "wb") as lines:
        lines.writelines(orjson.dumps(item) + b"\n" for item in items)


def copy_home(built: Path, target: Path) -> Path:
    """Copy what a build leaves behind: the generations, the catalogue, and the cached vectors.

    The bundles are only linked: nobody changes them.
    """
    target.mkdir(parents=True)
    shutil.copytree(built / "generations", target / "generations")
    shutil.copytree(built / "embeddings", target / "embeddings")
    shutil.copy(built / "catalog.sqlite", target)
    (target / "bundles").symlink_to(built / "bundles")
    return target


def add_copy_of_generation(home: Path, generation: int, copy: int) -> Path:
    """Publish a generation once more under another number; return its folder."""
    generations = home / "generations"
    folder = generations / f"{copy:06d}"
    shutil.copytree(generations / f"{generation:06d}", folder)
    manifest = orjson.loads((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_bytes(orjson.dumps({**manifest, "generation": copy}))
    return folder


@dataclass(frozen=True)
class StoredVectors:
    """All vectors of a generation, as its files hold them, in the order of item_id."""

    item_ids: list[str]
    vectors: NDArray[np.float64]

    @classmethod
    def of(cls, generation_folder: Path) -> "StoredVectors":
        """Read every shard's files."""
        pairs: list[tuple[str, NDArray[np.float64]]] = []
        for shard in sorted(generation_folder.glob("shard-*")):
            ids = pa.ipc.open_file(pa.memory_map(str(shard / "item_ids.arrow"))).read_all()
            item_ids = ids.column("item_id").to_pylist()
            halves = np.fromfile(shard / "vectors.f16", dtype="<f2").reshape(len(item_ids), -1)
            pairs += zip(item_ids, halves.astype(np.float64), strict=True)
        pairs.sort(key=lambda pair: pair[0].encode())
        return cls([item_id for item_id, _ in pairs], np.array([row for _, row in pairs]))

    def rank(self, query: NDArray[np.float32]) -> list[tuple[str, float]]:
        """Return every item with its score, best first, ties by item_id: the naive search."""
        scores = (self.vectors @ query.astype(np.float64)).astype(np.float32)
        pairs = zip(self.item_ids, scores.tolist(), strict=True)
        return sorted(pairs, key=lambda pair: (-pair[1], pair[0].encode()))


class Deployment:
    """A home whose services `vitrine up` starts."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.processes: dict[str, Process] = {}
        self._stubs: dict[str, Stubs] = {}

    def up(self, *options: object, settings: Mapping[str, str] | None = None) -> Ran:
        """Start it on free ports."""
        ran = vitrine(
            "up", "--home", self.home, "--port", 0, "--detach", *options, settings=settings
        )
        succeed(ran)
        document = orjson.loads((self.home / "run" / "processes.json").read_bytes())
        self.processes = {
            entry["name"]: Process(
                entry["name"],
                entry["pid"],
                entry["address"],
                entry["http_address"],
                Path(entry["log"]),
            )
            for entry in document["processes"]
        }
        return ran

    def down(self) -> Ran:
        """Stop it."""
        for stubs in self._stubs.values():
            stubs.close()
        self._stubs.clear()
        ran = vitrine("down", "--home", self.home)
        reap()
        return succeed(ran)

    @property
    def gateway(self) -> Process:
        """The gateway."""
        return self.processes["gateway"]

    @property
    def encoder(self) -> Process:
        """The encoder."""
        return self.processes["encoder"]

    @property
    def address(self) -> str:
        """Where the gateway listens."""
        return self.gateway.address

    def shard(self, number: int) -> Process:
        """One index service."""
        return self.processes[f"shard-{number}"]

    def stubs(self, name: str = "gateway") -> Stubs:
        """Stubs of one process."""
        if name not in self._stubs:
            self._stubs[name] = Stubs(self.processes[name].address)
        return self._stubs[name]

    def search(self, timeout_s: float = SEARCH_TIMEOUT_S, **fields: Any) -> Any:
        """Send one search to the gateway."""
        request = search_pb2.SearchRequest(**fields)
        return self.stubs().search.Search(request, timeout=timeout_s)

    def generation_folder(self, generation: int = 1) -> Path:
        """Return where a generation's files are."""
        return self.home / "generations" / f"{generation:06d}"

    @cached_property
    def stored(self) -> StoredVectors:
        """All vectors of generation 1."""
        return StoredVectors.of(self.generation_folder(1))
