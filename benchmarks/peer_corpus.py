"""The items and vectors of a home's promoted generation, as peers take them in."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.json_format import MessageToDict
from numpy.lib.format import open_memmap

from gateway.catalog.store import open_bulk_catalog
from index_service.generation.manifest import (
    ITEM_IDS_FILE,
    VECTORS_FILE,
    Manifest,
    generation_folder,
    read_manifest,
    shard_folder,
)
from index_service.segment import map_halves, read_item_ids
from protos.vitrine.v1 import types_pb2
from rpc.active import read_active

BUILD_STAGES = ("ingest", "export", "index")
"""What Vitrine does with items and vectors that are there; "embed" is left out, as for peers."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written for peers, and which generation it is of."""

    folder: Path
    item_ids: list[str]
    manifest: Manifest

    @property
    def row_of(self) -> dict[str, int]:
        """The row of each item's vector."""
        return {item_id: row for row, item_id in enumerate(self.item_ids)}


def promoted(home: Path) -> tuple[Path, Manifest]:
    """Return the folder and the manifest of a home's promoted generation."""
    generations = home / "generations"
    number = read_active(str(generations)).generation
    folder = generations / generation_folder(number)
    return folder, read_manifest(folder)


def export(home: Path, folder: Path) -> Exported:
    """Write a home's items to a folder: vectors.npy, float32, and items.jsonl in the same order.

    A line is [item_id, title, attributes]; attributes are JSON in a string, for every peer keeps
    them so.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generation, manifest = promoted(home)
    shape = (manifest.items, manifest.encoder.dim)
    vectors = open_memmap(folder / "vectors.npy", mode="w+", dtype=np.float32, shape=shape)
    item_ids: list[str] = []
    for entry in manifest.shards:
        shard = generation / shard_folder(entry.shard)
        first = len(item_ids)
        item_ids += read_item_ids(shard / ITEM_IDS_FILE).to_pylist()
        vectors[first : len(item_ids)] = map_halves(shard / VECTORS_FILE, entry.items, shape[1])
    vectors.flush()
    exported = Exported(folder, item_ids, manifest)
    _write_items(home, exported)
    return exported


def attributes_of(item: types_pb2.Item) -> dict[str, Any]:
    """Return an item's attributes as an input file of Vitrine's own has them."""
    return {name: _plain(item.attributes[name]) for name in sorted(item.attributes)}


def rebuilt(home: Path, count: int, out: Path) -> dict[str, float]:
    """Build a home of the first items of another one, 0 for all; return the seconds by stage.

    Embeddings are taken from the other home's cache.
    """
    _, manifest = promoted(home)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    if (home / "embeddings").is_dir():
        shutil.copytree(home / "embeddings", out / "embeddings")
    items = out.with_suffix(".items.jsonl")
    with items.open("w", encoding="utf-8") as lines:
        for item in islice(_items(home), count or None):
            lines.write(json.dumps(_record(item)) + "\n")
    built = subprocess.run(
        [
            sys.executable, "-m", "cli", "build", "--items", str(items), "--home", str(out),
            "--bundle", str(home / "bundles" / manifest.encoder.encoder_id),
            "--shards", str(manifest.num_shards), "--m", str(manifest.index.m),
            "--ef-construction", str(manifest.index.ef_construction), "--promote", "--json",
        ],
        stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    stages = json.loads(built.stdout)["stages"]
    return {name: round(stage["seconds"], 1) for name, stage in stages.items()}


def _write_items(home: Path, exported: Exported) -> None:
    kept = {
        item.item_id: json.dumps([item.item_id, item.title, json.dumps(attributes_of(item))])
        for item in _items(home)
    }
    with (exported.folder / "items.jsonl").open("w", encoding="utf-8") as lines:
        for item_id in exported.item_ids:
            lines.write(kept[item_id] + "\n")


def _items(home: Path) -> Iterator[types_pb2.Item]:
    catalog = open_bulk_catalog(f"sqlite:///{(home / 'catalog.sqlite').resolve()}")
    try:
        with catalog.snapshot() as snapshot:
            for _, serialized in snapshot.iter_items_sorted():
                yield types_pb2.Item.FromString(serialized)
    finally:
        catalog.close()


def _record(item: types_pb2.Item) -> dict[str, Any]:
    return {
        "item_id": item.item_id,
        "title": item.title,
        "texts": dict(item.texts),
        "attributes": attributes_of(item),
        "metadata": MessageToDict(item.metadata),
    }


def _plain(value: types_pb2.AttributeValue) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "keywords":
        return list(value.keywords.values)
    if kind == "time":
        return {"time": value.time.ToJsonString()}
    return getattr(value, str(kind))
