"""Helpers of the tests that ingest files."""

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from gateway.catalog.store import open_bulk_catalog
from gateway.ingest.run import IngestRequest, IngestResult, ingest
from protos.vitrine.v1.types_pb2 import Item

Write = Callable[..., Path]


def nested(levels: int, value: object = "x", *, lists: bool = False) -> object:
    """Return a value inside as many objects or lists."""
    for _ in range(levels):
        value = [value] if lists else {"a": value}
    return value


def run(url: str, *files: Path, **options: Any) -> IngestResult:
    return ingest(IngestRequest(files, **options), url)


def stored(url: str) -> dict[str, Item]:
    with closing(open_bulk_catalog(url)) as catalog, catalog.snapshot() as snapshot:
        return {item_id: Item.FromString(item) for item_id, item in snapshot.iter_items_sorted()}


def schema(url: str) -> dict[str, str]:
    with closing(open_bulk_catalog(url)) as catalog:
        return dict(catalog.read_schema())


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway.ingest", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def line_of(line: object) -> bytes:
    if isinstance(line, bytes):
        return line + b"\n"
    return (line if isinstance(line, str) else json.dumps(line)).encode() + b"\n"
