"""What a build needs of memory at its peak, against the shards that it makes.

`python -m benchmarks.build_memory --work DIR --shards N`

The build runs as `vitrine build` runs it, one process a core, into a folder that is removed
afterwards. Every tenth of a second the memory of all its processes is read. "anonymous" is what no
file stands behind; "resident" adds what is mapped of files, each page shared out among those who
map it, which the kernel can take back. Both count the interpreter and its libraries.
"""

import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import orjson
import psutil
import pyarrow as pa
import typer

from benchmarks.report import machine, resident, write_result
from index_service.build.generation import DEFAULT_EF_CONSTRUCTION, DEFAULT_M
from index_service.build.work_folder import (
    EMBED_FILE,
    EXPORT_FILE,
    ITEMS_FILE,
    PROBES_FILE,
    VECTORS_FILE,
    WorkFolder,
)
from index_service.generation.manifest import (
    GRAPH_FILE,
    NODES_FILE,
    Manifest,
    generation_folder,
    read_manifest,
)

SAMPLE_EVERY_S = 0.1
KINDS = ("anonymous_bytes", "resident_bytes")
_IDLE = "import index_service.build.__main__; input()"


@dataclass
class Peaks:
    """The most that was seen."""

    samples: int = 0
    processes_max: int = 0
    by_stage: dict[str, dict[str, int]] = field(
        default_factory=lambda: defaultdict(lambda: dict.fromkeys(KINDS, 0))
    )
    """Of all processes together."""
    largest_process: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))

    def add(self, stage: str, processes: list[dict[str, int]]) -> None:
        """Count in what each process had at one moment."""
        self.samples += 1
        self.processes_max = max(self.processes_max, len(processes))
        for kind in KINDS:
            values = [process[kind] for process in processes]
            self.by_stage[stage][kind] = max(self.by_stage[stage][kind], sum(values))
            self.largest_process[kind] = max(self.largest_process[kind], *values)


def main(
    work: Annotated[Path, typer.Option(help="Folder with items, vectors and probe queries.")],
    shards: Annotated[int, typer.Option(help="How many shards to cut into.")],
    items: Annotated[int, typer.Option(help="The first so many items; 0 for all.")] = 0,
    m: Annotated[int, typer.Option(help="Links a node.")] = DEFAULT_M,
    ef_construction: Annotated[
        int, typer.Option(help="Candidates while building.")
    ] = DEFAULT_EF_CONSTRUCTION,
    name: Annotated[str, typer.Option(help="Name of the result file.")] = "build_memory",
) -> None:
    """Build a generation and tell what its processes took at their peak."""
    with tempfile.TemporaryDirectory(dir=work.parent, prefix=".build-memory-") as scratch:
        home = Path(scratch)
        if items:
            work = first_items(work, items, home / "work")
        options = ["--m", str(m), "--ef-construction", str(ef_construction)]
        started_s = time.perf_counter()
        peaks = build(work, home / "generations", shards, options)
        seconds = time.perf_counter() - started_s
        manifest = read_manifest(home / "generations" / generation_folder(1))
    result = {
        **machine(),
        "m": m,
        "ef_construction": ef_construction,
        "seconds": round(seconds, 1),
        **figures_of(peaks, manifest, idle_process()),
    }
    typer.echo(orjson.dumps(result, option=orjson.OPT_INDENT_2).decode())
    typer.echo(write_result(name, result))


def build(work: Path, generations: Path, shards: int, options: list[str]) -> Peaks:
    """Build a generation in processes of its own, and watch them."""
    command = [sys.executable, "-m", "index_service.build", "--shards", str(shards), *options]
    command += ["--work", str(work), "--generations", str(generations)]
    peaks = Peaks()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as building:
        while building.poll() is None:
            stage = stage_of(generations)
            if processes := list(memory_of(building.pid)):
                peaks.add(stage, processes)
            time.sleep(SAMPLE_EVERY_S)
    if building.returncode:
        raise SystemExit(building.returncode)
    return peaks


def memory_of(pid: int) -> Iterator[dict[str, int]]:
    """Yield what a process and each of its children have; those that have ended have nothing."""
    try:
        tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in tree:
        try:
            yield resident(process.pid)
        except (OSError, KeyError):
            # It ended meanwhile.
            continue


def stage_of(generations: Path) -> str:
    """Tell by the files that are there what a build does; shards in the making may differ."""
    staging = next(generations.glob(".building-*"), None)
    if staging is None:
        return "begin and end"
    if (staging / PROBES_FILE).exists():
        return "measure recall"
    parts = sorted(staging.glob("shard-*.part"))
    return " and ".join(sorted({_part_stage(part) for part in parts})) or "read items"


def _part_stage(part: Path) -> str:
    if (part / GRAPH_FILE).exists() or (part / NODES_FILE).exists():
        return "write graph"
    return "build graph" if (part / VECTORS_FILE).exists() else "write items"


def figures_of(peaks: Peaks, manifest: Manifest, idle: dict[str, int]) -> dict[str, Any]:
    """Return the peaks as shares of finished shards.

    "all_processes" is of all shards; "largest_process", which makes one shard at a time, of the
    largest one; "above_idle" leaves out the interpreter and its libraries.
    """
    sizes = [sum(file.bytes for file in shard.files.values()) for shard in manifest.shards]
    together: dict[str, Any] = {}
    for kind in KINDS:
        stage = max(peaks.by_stage, key=lambda each: peaks.by_stage[each][kind])
        peak = peaks.by_stage[stage][kind]
        together[kind] = {"peak": peak, "of_shards": round(peak / sum(sizes), 3), "stage": stage}
    return {
        "items": manifest.items,
        "dim": manifest.encoder.dim,
        "code_dim": manifest.index.code_dim,
        "shards": manifest.num_shards,
        "shard_bytes": {"all": sum(sizes), "largest": max(sizes)},
        "processes_max": peaks.processes_max,
        "samples": peaks.samples,
        "idle_process": idle,
        "all_processes": together,
        "largest_process": {
            kind: {
                "peak": peak,
                "of_largest_shard": round(peak / max(sizes), 3),
                "above_idle_of_largest_shard": round((peak - idle[kind]) / max(sizes), 3),
            }
            for kind, peak in peaks.largest_process.items()
        },
        "by_stage": dict(peaks.by_stage),
    }


def idle_process() -> dict[str, int]:
    """Return what a process takes that has loaded the build's libraries and done nothing."""
    command = [sys.executable, "-c", _IDLE]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        found = resident(process.pid)
        before = -1
        while found["resident_bytes"] != before:
            before = found["resident_bytes"]
            time.sleep(1.0)
            found = resident(process.pid)
        process.communicate(b"\n")
    return found


def first_items(work: Path, items: int, folder: Path) -> Path:
    """Write a work folder of the first items of another one."""
    whole = WorkFolder.open(work)
    items = min(items, whole.items)
    folder.mkdir()
    whole.vectors()[:items].tofile(folder / VECTORS_FILE)
    (folder / PROBES_FILE).write_bytes((work / PROBES_FILE).read_bytes())
    for name in (EMBED_FILE, EXPORT_FILE):
        document = orjson.loads((work / name).read_bytes())
        (folder / name).write_bytes(orjson.dumps({**document, "items": items}))
    reader = pa.ipc.open_file(pa.memory_map(str(work / ITEMS_FILE)))
    left = items
    with pa.ipc.new_file(str(folder / ITEMS_FILE), reader.schema) as writer:
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number).slice(0, left)
            left -= batch.num_rows
            if batch.num_rows:
                writer.write_batch(batch)
    return folder


if __name__ == "__main__":
    typer.run(main)
