"""A real deployment to measure: built and started by the `vitrine` command, searched over gRPC."""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from gateway.catalog.store import open_bulk_catalog
from protos.vitrine.v1 import types_pb2

QUERY_WORDS = (2, 5)


def build(home: Path, items: Sequence[Path], bundle: Path, shards: int) -> None:
    """Build and promote a generation in a home, unless it has one."""
    if not (home / "generations" / "active.json").exists():
        files = [argument for path in items for argument in ("--items", str(path))]
        vitrine(
            "build", *files, "--bundle", str(bundle), "--home", str(home),
            "--shards", str(shards), "--promote",
        )  # fmt: skip


@contextmanager
def running(home: Path, port: int) -> Iterator[str]:
    """Start a home's services; yield the gateway's address; stop them."""
    vitrine("up", "--home", str(home), "--port", str(port), "--detach")
    try:
        yield f"127.0.0.1:{port}"
    finally:
        vitrine("down", "--home", str(home))


def process_addresses(home: Path) -> dict[str, str]:
    """Return the gRPC address of each running process by name ("shard-0")."""
    status = subprocess.run(
        [*_VITRINE, "status", "--home", str(home), "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {entry["name"]: entry["address"] for entry in json.loads(status.stdout)["processes"]}


def sample_bundle_and_items(folder: Path) -> tuple[Path, Path]:
    """Return the MiniLM bundle and the sample catalogue, made in a folder unless they are there."""
    bundle, items = folder / "bundle", folder / "sample" / "items.jsonl.gz"
    if not bundle.exists():
        vitrine("bundle", "export", "--model", "all-MiniLM-L6-v2", "--out", str(bundle))
    if not items.exists():
        command = [sys.executable, "-m", "training.sample_catalog", "--out", str(items.parent)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return bundle, items


def queries_of(home: Path, count: int, seed: int = 1) -> list[str]:
    """Return distinct short queries: 2 to 5 words of random titles of the home's catalogue."""
    catalog = open_bulk_catalog(f"sqlite:///{(home / 'catalog.sqlite').resolve()}")
    with catalog.snapshot() as snapshot:
        titles = [types_pb2.Item.FromString(item).title for _, item in snapshot.iter_items_sorted()]
    catalog.close()
    chance = random.Random(seed)
    queries: dict[str, None] = {}
    while len(queries) < count:
        words = chance.choice(titles).split()
        kept = chance.sample(words, min(len(words), chance.randint(*QUERY_WORDS)))
        queries[" ".join(kept)] = None
    return list(queries)


def add_home_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `homes_of` reads."""
    parser.add_argument("--home", type=Path, nargs="*", help="homes with a promoted generation")
    parser.add_argument("--work", type=Path, help="folder to build the sample homes in, kept")
    parser.add_argument("--shards", type=int, nargs="*", default=[1, 2, 4])


def homes_of(options: argparse.Namespace) -> list[Path]:
    """Return the homes to measure: those given, or the sample catalogue at each shard count."""
    if options.home:
        return list(options.home)
    folder = options.work or Path(tempfile.mkdtemp(prefix="vitrine-benchmark-"))
    bundle, items = sample_bundle_and_items(folder)
    for shards in options.shards:
        build(folder / f"shards-{shards}", [items], bundle, shards)
    return [folder / f"shards-{shards}" for shards in options.shards]


def vitrine(*arguments: str) -> None:
    """Run a `vitrine` command; its progress stays visible."""
    subprocess.run([*_VITRINE, *arguments], check=True, stdout=sys.stderr)


_VITRINE = (sys.executable, "-m", "cli")
