"""Small catalogues made of exact numbers, and the simplest possible search over them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from index_service.build.generation import BuildSettings, Built, build_generation
from index_service.generation.manifest import read_manifest
from index_service.generation.verify import Verification
from index_service.memory import MemoryBudget
from index_service.planner import PlanLimits
from index_service.shard import Shard, ShardLimits
from index_service.store import GenerationStore
from protos.vitrine.v1 import types_pb2

DIM = 32
ENCODER_ID = "encoder-a"
SCHEMA = pa.schema([("item_id", pa.string()), ("item", pa.binary())])


def random_units(rng, count, dim=DIM):
    vectors = rng.standard_normal((count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def tied_units(rng, count, dim=DIM):
    """Unit vectors of sixteen +-0.25: inner products are exact sixteenths, so most scores tie."""
    vectors = np.zeros((count, dim), dtype=np.float32)
    for vector in vectors:
        vector[rng.permutation(dim)[:16]] = rng.choice([-0.25, 0.25], 16)
    return vectors


@dataclass
class Catalogue:
    """Items in the order of their ids."""

    vectors: np.ndarray
    probes: np.ndarray
    attributes: list[dict[str, Any]] = field(default_factory=list)
    item_ids: list[str] = field(default_factory=list)
    queries_given: bool = False

    def __post_init__(self):
        self.vectors = self.vectors.astype(np.float16)
        self.item_ids = self.item_ids or [f"item-{row:06d}" for row in range(len(self.vectors))]
        self.attributes = self.attributes or [{} for _ in self.item_ids]

    def write(self, folder: Path) -> Path:
        """Write the work folder that a build starts from."""
        folder.mkdir(parents=True, exist_ok=True)
        items = [
            serialized(item_id, attributes)
            for item_id, attributes in zip(self.item_ids, self.attributes, strict=True)
        ]
        with pa.ipc.new_file(str(folder / "items.arrow"), SCHEMA) as writer:
            for start in range(0, len(items), 700):
                stop = start + 700
                columns = [pa.array(self.item_ids[start:stop]), pa.array(items[start:stop])]
                writer.write_batch(pa.record_batch(columns, schema=SCHEMA))
        self.vectors.tofile(folder / "vectors.f16")
        np.save(folder / "probes.npy", self.probes)
        embed = {
            "format_version": 1,
            "encoder_id": ENCODER_ID,
            "name": "tiny",
            "dim": self.vectors.shape[1],
            "item_template": "{title}",
            "items": len(items),
            "queries_xxh3": "0123" if self.queries_given else "",
            "compatible_query_encoders": [{"encoder_id": "encoder-b", "recall": 0.99}],
        }
        (folder / "embed.json").write_bytes(orjson.dumps(embed))
        export = {"format_version": 1, "seq": 77, "items": len(items)}
        (folder / "export.json").write_bytes(orjson.dumps(export))
        return folder

    def best(self, query, k, keep=lambda row: True) -> list[tuple[str, float]]:
        """Score every item on its own, sort, cut."""
        scores = self.vectors.astype(np.float64) @ query.astype(np.float64)
        ranked = sorted(
            (-np.float32(score), self.item_ids[row])
            for row, score in enumerate(scores)
            if keep(row)
        )
        return [(item_id, float(-negative)) for negative, item_id in ranked[:k]]


def serialized(item_id: str, attributes: dict[str, Any]) -> bytes:
    item = types_pb2.Item(item_id=item_id, title=f"title of {item_id}")
    for name, value in attributes.items():
        match value:
            case bool():
                item.attributes[name].flag = value
            case str():
                item.attributes[name].keyword = value
            case list():
                item.attributes[name].keywords.values.extend(value)
            case float():
                item.attributes[name].number = value
            case ("time", micros):
                item.attributes[name].time.FromMicroseconds(micros)
    return item.SerializeToString()


def random_attributes(rng, count) -> list[dict[str, Any]]:
    """Every kind of attribute, each missing from some items."""
    makers = {
        "brand": lambda: str(rng.choice(["Acme", "Böhm", "čapek", "日本", ""])),
        "colors": lambda: [str(each) for each in rng.choice(["red", "pink", "blue"], 2)],
        "price": lambda: float(rng.choice([-1.5, 0.0, 9.99, 10.0, 25.0])),
        "sale": lambda: bool(rng.integers(2)),
        "added": lambda: ("time", int(rng.integers(-3, 4)) * 1_000_001),
    }
    return [
        {name: make() for name, make in makers.items() if rng.random() < 0.8} for _ in range(count)
    ]


def build(catalogue: Catalogue, home: Path, num_shards: int = 1, **settings: Any) -> Built:
    """Build the next generation in home/generations."""
    work = catalogue.write(home / "work")
    return build_generation(
        work, home / "generations", BuildSettings(num_shards=num_shards, **settings)
    )


def open_shard(
    home: Path,
    number: int = 0,
    limits: PlanLimits | None = None,
    generations_max: int = 4,
    verification: Verification = Verification.FULL,
    budget: MemoryBudget | None = None,
) -> Shard:
    store = GenerationStore(str(home / "generations"), home / "cache")
    return Shard(
        number,
        store,
        verification,
        ShardLimits(generations_max=generations_max),
        limits or PlanLimits(),
        budget,
    )


def manifest_of(home: Path, generation: int = 1):
    return read_manifest(home / "generations" / f"{generation:06d}")


def never() -> None:
    """Never stop."""
