"""What a generation's manifest.json says; the manifest is written last and read first."""

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import orjson
from pydantic import TypeAdapter, ValidationError

from index_service.planner import Effort, FirstTry
from rpc.buckets import NUM_BUCKETS
from rpc.errors import DataLoss, FailedPrecondition, NotFound

FORMAT_VERSION = 3
READABLE_VERSIONS = (1, 2, 3)
"""Version 1 had no code_dim: its codes have as many dimensions as vectors. Up to version 2 the
graph's nodes were numbered in the order of rows."""
BUCKET_HASH = "xxh3_64"
INDEX_KIND = "hnsw_sq8"

MANIFEST_FILE = "manifest.json"
PROBES_FILE = "probes.npy"
GRAPH_FILE = "graph.faiss"
NODES_FILE = "nodes.u32"
VECTORS_FILE = "vectors.f16"
ITEM_IDS_FILE = "item_ids.arrow"
ATTRIBUTES_FILE = "attributes.arrow"
SHARD_FILES = (GRAPH_FILE, NODES_FILE, VECTORS_FILE, ITEM_IDS_FILE, ATTRIBUTES_FILE)


class AttributeKind(StrEnum):
    """What kind of values an attribute holds, across the whole catalogue."""

    KEYWORD = "keyword"
    KEYWORD_LIST = "keyword_list"
    NUMBER = "number"
    BOOL = "bool"
    TIME = "time"


@dataclass(frozen=True, slots=True)
class FileEntry:
    """Size and checksum that a file must have."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ShardEntry:
    """One shard's files by name, and how many items they hold."""

    shard: int
    items: int
    files: dict[str, FileEntry]


@dataclass(frozen=True, slots=True)
class EncoderEntry:
    """The encoder that embedded the items."""

    encoder_id: str
    name: str
    dim: int
    item_template: str


@dataclass(frozen=True, slots=True)
class IndexParameters:
    """How the graphs were built."""

    kind: str
    m: int
    ef_construction: int
    seed: int
    code_dim: int | None = None
    """Dimensions of a code, fewer than the encoder's when codes are made of projected vectors."""


@dataclass(frozen=True, slots=True)
class AttributeEntry:
    """One attribute over all shards."""

    name: str
    type: AttributeKind
    items_present: int


@dataclass(frozen=True, slots=True)
class GateEntry:
    """The quality that the generation was measured at before it was published."""

    ann_recall_at_10: float
    required_ann_recall_at_10: float
    ef_search: int
    probes: int
    search_p50_us: float
    rescored: int = 64
    """Candidates rescored for ten hits."""
    first_try: FirstTry | None = None
    """What searches for ten hits begin with; recall and time were measured with it."""
    queries_given: bool = False
    """Measured with queries that were given to the build, not with words of titles."""

    @property
    def effort(self) -> Effort:
        """How hard its searches try."""
        return Effort(self.ef_search, self.rescored, self.first_try)

    @property
    def passed(self) -> bool:
        """Tell whether the generation finds what it must."""
        return self.ann_recall_at_10 >= self.required_ann_recall_at_10


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything about a generation that is not in its files, and what those must be."""

    format_version: int
    generation: int
    created_at: str
    software_version: str
    seq: int
    encoder: EncoderEntry
    compatible_query_encoders: tuple[dict[str, Any], ...]
    num_shards: int
    num_buckets: int
    bucket_hash: str
    items: int
    byte_order: str
    faiss_version: str
    index: IndexParameters
    attributes: tuple[AttributeEntry, ...]
    gate: GateEntry
    files: dict[str, FileEntry]
    shards: tuple[ShardEntry, ...]

    @property
    def compatible_encoder_ids(self) -> tuple[str, ...]:
        """Other encoders whose queries mean something here."""
        return tuple(str(entry["encoder_id"]) for entry in self.compatible_query_encoders)

    @property
    def schema(self) -> Mapping[str, AttributeKind]:
        """The kind of every attribute that filters may name."""
        return {entry.name: entry.type for entry in self.attributes}

    @property
    def size_bytes(self) -> int:
        """Size of all files together."""
        return sum(entry.bytes for entry in self.files_by_path().values())

    def files_by_path(self, shard: int | None = None) -> dict[str, FileEntry]:
        """Return the files by path inside the generation: all, or those that one shard needs."""
        shards = self.shards if shard is None else (self.shards[shard],)
        of_shards = {
            f"{shard_folder(entry.shard)}/{name}": file
            for entry in shards
            for name, file in entry.files.items()
        }
        return {**self.files, **of_shards}

    def to_json(self) -> bytes:
        """Return the file's content, for machines and for people."""
        return orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


_MANIFEST = TypeAdapter(Manifest)


def generation_folder(generation: int) -> str:
    """Return the name of a generation's folder.

    >>> generation_folder(1)
    '000001'
    """
    return f"{generation:06d}"


def shard_folder(shard: int) -> str:
    """Return the name of a shard's folder inside its generation.

    >>> shard_folder(3)
    'shard-0003'
    """
    return f"shard-{shard:04d}"


def published_generations(generations: Path) -> list[int]:
    """Return the numbers of the published generations in a folder, ascending."""
    if not generations.is_dir():
        return []
    return sorted(int(path.name) for path in generations.iterdir() if path.name.isdecimal())


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of the generation in a folder.

    Raises:
        NotFound: there is no such folder.
        DataLoss: the manifest is missing, unreadable or contradicts itself.
        FailedPrecondition: GENERATION_FORMAT, written by other software or another kind of machine.
    """
    path = folder / MANIFEST_FILE
    if not folder.is_dir():
        raise NotFound("generation", [folder.name.lstrip("0") or folder.name])
    try:
        content = path.read_bytes()
    except FileNotFoundError as exc:
        raise DataLoss(str(path), "the file is missing; build the generation again") from exc
    return parse_manifest(content, str(path))


def parse_manifest(content: bytes, path: str) -> Manifest:
    """Return the manifest in a file's content; `path` names the file in errors.

    Raises:
        DataLoss: it cannot be understood, or contradicts itself.
        FailedPrecondition: GENERATION_FORMAT.
    """
    try:
        document = orjson.loads(content)
        _require_readable(document, path)
        manifest = _MANIFEST.validate_python(document)
    except (orjson.JSONDecodeError, ValidationError, AttributeError) as exc:
        raise DataLoss(path, f"not a manifest: {str(exc).splitlines()[0]}") from exc
    if contradiction := _contradiction(manifest):
        raise DataLoss(path, contradiction)
    return manifest


def _require_readable(document: dict[str, Any], path: str) -> None:
    """Refuse what other software, or another kind of machine, must read."""
    readable: dict[str, tuple[int | str, ...]] = {
        "format_version": READABLE_VERSIONS,
        "byte_order": (sys.byteorder,),
        "num_buckets": (NUM_BUCKETS,),
        "bucket_hash": (BUCKET_HASH,),
    }
    for name, allowed in readable.items():
        if (got := document.get(name)) not in allowed:
            expected = " or ".join(map(repr, allowed))
            raise FailedPrecondition(
                "GENERATION_FORMAT",
                f"{path} has {name} {got!r}; this software and machine read {expected}. "
                "Build the generation again with this version",
                expected=expected,
                got=got,
            )
    kind = (document.get("index") or {}).get("kind")
    if kind != INDEX_KIND:
        raise FailedPrecondition(
            "GENERATION_FORMAT",
            f"{path} has an index of kind {kind!r}; this software reads {INDEX_KIND!r}. "
            "Build the generation again with this version",
            expected=INDEX_KIND,
            got=kind,
        )


def _contradiction(manifest: Manifest) -> str | None:
    """Say what in a manifest cannot be, if anything."""
    if [entry.shard for entry in manifest.shards] != list(range(manifest.num_shards)):
        return f"it does not list the shards 0..{manifest.num_shards - 1} in order"
    if sum(entry.items for entry in manifest.shards) != manifest.items:
        return f"its shards do not add up to {manifest.items} items"
    needed = [(PROBES_FILE, manifest.files)]
    needed += [(name, entry.files) for entry in manifest.shards for name in SHARD_FILES]
    if absent := next((name for name, files in needed if name not in files), None):
        return f"it does not list {absent}, which every generation needs"
    # A name with a slash could point out of the generation.
    names = [*manifest.files, *(name for entry in manifest.shards for name in entry.files)]
    if odd := next((name for name in names if Path(name).name != name), None):
        return f"it lists a file with an impossible name: {odd!r}"
    return None
