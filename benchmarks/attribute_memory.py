"""What laying out an attribute of a shard takes of memory: at most, and what is kept.

`python -m benchmarks.attribute_memory`

One attribute at a time, each in a process of its own; anonymous memory above what the process had
before, read every few milliseconds. Recall has no part in it.
"""

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import typer

from benchmarks.report import anonymous_bytes, machine, write_result
from index_service.attributes import Attributes
from index_service.segment import read_table

SAMPLE_EVERY_S = 0.002
_BATCH_ITEMS = 8_192
_SEED = 0


@dataclass(frozen=True, slots=True)
class Attribute:
    """A made-up attribute: of how many items, and the value of each."""

    name: str
    items: int
    value: Callable[[int], Any]


ATTRIBUTES = (
    Attribute("distinct keywords of 16 bytes", 300_000, lambda item: f"sku-{item:012d}"),
    Attribute("distinct keywords of 16 bytes", 1_000_000, lambda item: f"sku-{item:012d}"),
    Attribute("100 keywords", 1_000_000, lambda item: f"brand {item % 100}"),
    Attribute(
        "lists of 4 of 1,200,000 keywords",
        300_000,
        lambda item: [f"{item:x}-{place}" for place in range(4)],
    ),
    Attribute(
        "lists of 10 of 1,000 keywords",
        300_000,
        lambda item: [f"t{(item * 7 + place) % 1_000}" for place in range(10)],
    ),
)


def main(
    name: str = typer.Option("attribute_memory", help="Name of the result file."),
    lay_out: Path = typer.Option(None, hidden=True),  # noqa: B008
) -> None:
    """Measure every attribute."""
    if lay_out:
        typer.echo(orjson.dumps(measured(lay_out)).decode())
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = [in_a_process(attribute, Path(folder) / "x.arrow") for attribute in ATTRIBUTES]
    typer.echo(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode())
    typer.echo(write_result(name, {**machine(), "attributes": rows}))


def in_a_process(attribute: Attribute, file: Path) -> dict[str, Any]:
    """Write an attribute's file, and lay it out in a process that does nothing else."""
    order = np.random.default_rng(_SEED).permutation(attribute.items).tolist()
    with pa.OSFile(str(file), "wb") as sink:
        schema = pa.schema([("x", pa.array([attribute.value(0)]).type)])
        with pa.ipc.new_file(sink, schema) as writer:
            for start in range(0, attribute.items, _BATCH_ITEMS):
                values = [attribute.value(item) for item in order[start : start + _BATCH_ITEMS]]
                writer.write_batch(pa.record_batch([pa.array(values)], schema=schema))
    command = [sys.executable, "-m", "benchmarks.attribute_memory", "--lay-out", str(file)]
    ran = subprocess.run(command, capture_output=True, check=True)
    took = orjson.loads(ran.stdout)
    size = {"file_mib": round(file.stat().st_size / 2**20, 1)}
    return {"attribute": attribute.name, "items": attribute.items, **size, **took}


def measured(file: Path) -> dict[str, float]:
    """Return MiB at most and MiB kept of laying out a file's column in this process."""
    # What a first time takes is not the column's.
    Attributes.of_table(pa.table({"a": pa.array(["x", "y"]), "b": pa.array([["x"], ["y"]])}))
    before = most = anonymous_bytes()
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, anonymous_bytes())
            time.sleep(SAMPLE_EVERY_S)

    watching = threading.Thread(target=watch)
    watching.start()
    attributes = Attributes.of_table(read_table(file))
    done.set()
    watching.join()
    kept = anonymous_bytes() - before
    assert attributes.all_rows
    return {"most_mib": round((most - before) / 2**20, 1), "kept_mib": round(kept / 2**20, 1)}


if __name__ == "__main__":
    typer.run(main)
