"""Builds from a user's own files, and builds that are interrupted."""

import csv
import gzip
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.system.deployment import read_items, write_items
from tests.system.polling import eventually
from tests.system.processes import ROOT, Ran, environment, succeed, vitrine

SHOES = (
    ("s1", "Red running shoes", "shoes", 59.5, True),
    ("s2", "Blue rain boots", "shoes", 30.0, False),
    ("s3", "Black leather belt", "belts", 25.0, True),
    ("s4", "Wool socks, \u00fcber warm", "socks", 9.99, True),
    ("s5", "Straw hat", "hats", 19.0, True),
)
COLUMNS = ("sku", "name", "category", "price", "in_stock")


def rows() -> list[dict[str, Any]]:
    return [dict(zip(COLUMNS, shoe, strict=True)) for shoe in SHOES]


def write_csv(path: Path) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({**row, "in_stock": str(row["in_stock"]).lower()} for row in rows())
    return path


def write_parquet(path: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(rows()), path)
    return path


def write_jsonl(path: Path) -> Path:
    with gzip.open(path, "wb") as file:
        file.writelines(orjson.dumps(row) + b"\n" for row in rows())
    return path


FILES = {
    "CSV": ("shoes.csv", write_csv),
    "Parquet": ("shoes.parquet", write_parquet),
    "JSONL.gz": ("shoes.jsonl.gz", write_jsonl),
}
AMAZON = [
    {
        "main_category": "AMAZON FASHION",
        "title": "YUEDGE 5 Pairs Men's Moisture Control Cushioned Crew Socks",
        "average_rating": 4.6,
        "rating_number": 16,
        "features": ["Fit for men's shoe size 6-11"],
        "description": [],
        "price": "$14.99",
        "images": [{"large": "https://images.example.com/1.jpg", "variant": "MAIN"}],
        "videos": [],
        "store": "YUEDGE",
        "categories": [],
        "details": {"Department": "mens", "Brand": "YUEDGE"},
        "parent_asin": "B08HYWRQ75",
        "bought_together": None,
    },
    {
        "main_category": "AMAZON FASHION",
        "title": "Sunglasses",
        "average_rating": 3.1,
        "rating_number": 2,
        "features": [],
        "description": ["Dark."],
        "price": None,
        "images": [],
        "videos": [],
        "store": None,
        "categories": [],
        "details": {},
        "parent_asin": "B000000001",
        "bought_together": None,
    },
]


def build(home: Path, bundle: Path, *options: object) -> Ran:
    return vitrine("build", "--home", home, "--bundle", bundle, "--json", *options)


def catalogue_of(home: Path) -> dict[str, Any]:
    """Return the manifest of the promoted generation."""
    return succeed(vitrine("generation", "inspect", "--home", home, "--json")).document


@pytest.mark.parametrize("kind", FILES)
def test_a_users_own_file_becomes_a_generation(minilm_bundle, tmp_path, kind):
    name, write = FILES[kind]
    items = write(tmp_path / name)
    options = ["--items", items, "--shards", 2, "--promote"]
    mapping = ["--map", "item_id=sku", "title=name", "in_stock:bool=in_stock"]
    report = succeed(build(tmp_path / "home", minilm_bundle, *options, *mapping)).document
    assert report["promoted"] is True
    assert report["stages"]["ingest"]["items_written"] == 5
    assert report["stages"]["embed"]["embedded"] == 5
    manifest = catalogue_of(tmp_path / "home")
    assert manifest["items"] == 5
    kinds = {
        entry["name"]: (entry["type"], entry["items_present"]) for entry in manifest["attributes"]
    }
    assert kinds["price"] == ("number", 5)
    assert kinds["category"] == ("keyword", 5)
    assert kinds["in_stock"] == ("bool", 5)


def test_amazon_metadata_is_read_as_published(minilm_bundle, tmp_path):
    items = tmp_path / "meta_Amazon_Fashion.jsonl.gz"
    write_items(items, AMAZON)
    options = ["--items", items, "--shards", 1, "--promote"]
    report = succeed(build(tmp_path / "home", minilm_bundle, *options)).document
    assert report["stages"]["ingest"]["items_written"] == 2
    kinds = {entry["name"]: entry for entry in catalogue_of(tmp_path / "home")["attributes"]}
    assert (kinds["price"]["type"], kinds["price"]["items_present"]) == ("number", 1)
    assert kinds["brand"]["type"] == "keyword"


class RunningBuild:
    """A build that a test interrupts."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, "-m", "cli", "build", *map(str, arguments)]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def stage(self, module: str) -> psutil.Process | None:
        """Return the process of a stage while it runs."""
        for child in psutil.Process(self.process.pid).children():
            try:
                if module in child.cmdline():
                    return child
            except psutil.NoSuchProcess:
                continue
        return None

    def wait(self) -> Ran:
        out, err = self.process.communicate(timeout=60)
        assert "Traceback" not in err, err
        return Ran(self.process.returncode, out, err)


def vectors_cached(home: Path) -> int:
    """Return how many whole vectors are in the cache."""
    record_bytes = 16 + 8 + 2 * 384
    return sum(file.stat().st_size // record_bytes for file in home.glob("embeddings/*/*.vectors"))


def test_an_interrupted_build_embeds_nothing_twice(minilm_bundle, sample_file, tmp_path):
    home = tmp_path / "home"
    items = read_items(sample_file)[:600]
    write_items(tmp_path / "items.jsonl.gz", items)
    distinct = len({item["title"] for item in items})
    options = ["--items", tmp_path / "items.jsonl.gz", "--shards", 2]
    running = RunningBuild("--home", home, "--bundle", minilm_bundle, *options)
    eventually(lambda: vectors_cached(home) >= 64, "some vectors are kept", timeout_s=60)
    stage = running.stage("encoder_service.embed")
    assert stage is not None
    stage.kill()
    ran = running.wait()
    assert ran.status == 1
    assert "encoder_service.embed was killed (SIGKILL)" in ran.error
    assert "run the same command again" in ran.error
    kept = vectors_cached(home)
    assert 64 <= kept < distinct
    assert not list(home.glob("generations/0*")), "no generation is visible"

    embedded = succeed(build(home, minilm_bundle, *options)).document["stages"]["embed"]
    assert embedded["embedded"] == distinct - kept
    assert embedded["reused"] == 600 - embedded["embedded"]
    assert vectors_cached(home) == distinct, "each text is there once"

    queries = tmp_path / "queries.txt"
    queries.write_text("rain boots\nsilver watch\n")
    again = succeed(build(home, minilm_bundle, *options, "--queries", queries)).document
    assert again["stages"]["ingest"]["items_unchanged"] == 600
    assert again["stages"]["embed"]["embedded"] == 0
    assert again["generation"] == 2
    gates = [
        orjson.loads((home / "generations" / number / "manifest.json").read_bytes())["gate"]
        for number in ("000001", "000002")
    ]
    assert [(gate["probes"], gate["queries_given"]) for gate in gates] == [(256, False), (2, True)]


def test_a_whole_build_on_a_ray_cluster_writes_what_this_machine_would(minilm_bundle, tmp_path):
    pytest.importorskip("ray")
    items = write_csv(tmp_path / "shoes.csv")
    options = ["--items", items, "--shards", 2, "--promote", "--map", "item_id=sku", "title=name"]
    succeed(build(tmp_path / "here", minilm_bundle, *options))
    report = succeed(build(tmp_path / "there", minilm_bundle, *options, "--ray", "local")).document
    assert report["stages"]["embed"]["embedded"] == 5
    here, there = (catalogue_of(tmp_path / home)["shards"] for home in ("here", "there"))
    assert here == there, "the same files, by their checksums"
    assert sum(shard["items"] for shard in there) == 5
