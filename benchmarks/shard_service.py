"""An index service as a process: how soon it serves, and what a memory limit costs its searches.

`python -m benchmarks.shard_service --generations DIR --queries FILE.npy`

DIR holds a promoted generation. Starts are measured with its files in the file cache, from the
start of the process to health's SERVING. For the memory limit, the files are dropped from the file
cache before each start, so that what the service reads is charged to its own control group; half of
the queries warm it, the other half is measured, one at a time.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import grpc
import numpy as np
import orjson
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numpy.typing import NDArray

from benchmarks.control_group import ControlGroup, memory_limit
from benchmarks.report import anonymous_bytes, machine, percentile, write_result
from index_service.generation.manifest import Manifest, generation_folder, read_manifest
from protos.vitrine.v1 import index_pb2, index_pb2_grpc
from rpc.active import read_active
from rpc.terminal import CommandError, errors_as_sentences
from rpc.vectors import pack

VERIFICATIONS = ("full", "sampled", "lazy", "size")
FETCH_K = 10
SERVING_TIMEOUT_S = 300.0
_POLL_S = 0.002
_READ_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Served:
    """A running service, where it listens, and how long it took until it served."""

    address: str
    start_s: float
    pid: int


def main(
    generations: Annotated[Path, typer.Option(help="Folder with active.json.")],
    queries: Annotated[Path, typer.Option(help="Query vectors, .npy, float32.")],
    shard: Annotated[int, typer.Option(help="Which shard of the generation.")] = 0,
    starts: Annotated[int, typer.Option(help="Starts of each kind; 0 to measure none.")] = 5,
    limit: Annotated[float, typer.Option(help="Memory limit over raw vectors; 0 for none.")] = 0.7,
    searches: Annotated[int, typer.Option(help="Queries, half of them timed.")] = 2_000,
    rounds: Annotated[int, typer.Option(help="Rounds with and without the limit.")] = 3,
    name: Annotated[str, typer.Option(help="Name of the result file.")] = "shard_service",
) -> None:
    """Measure starts and limited searches of one shard."""
    with errors_as_sentences():
        folder = generations / generation_folder(read_active(str(generations)).generation)
        manifest = read_manifest(folder)
        asked = np.load(queries)[:searches]
        result: dict[str, Any] = {
            **machine(),
            "items": manifest.shards[shard].items,
            "dim": manifest.encoder.dim,
            "ef_search": manifest.gate.ef_search,
        }
        if starts:
            result["start_to_serving_s"] = measured_starts(generations, shard, starts)
        if limit:
            found = [
                measured_limit(generations, manifest, shard, limit, asked) for _ in range(rounds)
            ]
            ratios = [each["p50_limited_over_without"] for each in found]
            result["memory"] = {
                "p50_limited_over_without": statistics.median(ratios),
                "rounds": found,
            }
    typer.echo(orjson.dumps(result, option=orjson.OPT_INDENT_2).decode())
    typer.echo(write_result(name, result))


def measured_starts(generations: Path, shard: int, starts: int) -> dict[str, Any]:
    """Return the times of some starts by how files are verified, kinds in turns."""
    seconds: dict[str, list[float]] = {kind: [] for kind in VERIFICATIONS}
    read_files(generations)
    for _ in range(starts):
        for kind in VERIFICATIONS:
            with served(generations, shard, kind) as service:
                seconds[kind].append(round(service.start_s, 3))
    return {
        kind: {"median": round(statistics.median(times), 3), "all": times}
        for kind, times in seconds.items()
    }


def measured_limit(
    generations: Path, manifest: Manifest, shard: int, limit: float, asked: NDArray[np.float32]
) -> dict[str, Any]:
    """Return search times without a limit, with one, and without again."""
    raw_bytes = 4 * manifest.shards[shard].items * manifest.encoder.dim
    limit_bytes = int(limit * raw_bytes)
    before = measured_searches(generations, manifest, shard, asked)
    with memory_limit(limit_bytes) as group:
        limited = measured_searches(generations, manifest, shard, asked, group)
        used = {"cgroup_version": group.version, "peak_bytes": group.peak_bytes}
    after = measured_searches(generations, manifest, shard, asked)
    unlimited_p50 = statistics.mean(each["p50_us"] for each in (before, after))
    return {
        "raw_float32_bytes": raw_bytes,
        "limit_bytes": limit_bytes,
        **used,
        "without_limit": before,
        "limited": limited,
        "without_limit_again": after,
        "p50_limited_over_without": round(limited["p50_us"] / unlimited_p50, 3),
    }


def measured_searches(
    generations: Path,
    manifest: Manifest,
    shard: int,
    asked: NDArray[np.float32],
    group: ControlGroup | None = None,
) -> dict[str, Any]:
    """Return what searches of a service take that started with none of its files in memory."""
    for path in generations.rglob("*.*"):
        drop_cached(path)
    half = len(asked) // 2
    with (
        served(generations, shard, "full", group) as service,
        grpc.insecure_channel(service.address) as channel,
    ):
        stub = index_pb2_grpc.IndexServiceStub(channel)
        for query in asked[:half]:
            search_us(stub, manifest, query)
        read_before = major_faults(service.pid)
        times_us = [search_us(stub, manifest, query) for query in asked[half:]]
        reads = major_faults(service.pid) - read_before
        held_bytes = anonymous_bytes(service.pid)
    return {
        "p50_us": percentile(times_us, 0.5),
        "p95_us": percentile(times_us, 0.95),
        "disk_reads_a_search": round(reads / len(times_us), 2),
        "anonymous_bytes": held_bytes,
    }


def search_us(
    stub: index_pb2_grpc.IndexServiceStub, manifest: Manifest, query: NDArray[np.float32]
) -> int:
    """Return how long the shard takes for a query, the way to it not counted."""
    answer = stub.Search(
        index_pb2.IndexServiceSearchRequest(
            generation=manifest.generation,
            encoder_id=manifest.encoder.encoder_id,
            queries=[index_pb2.ShardQuery(embedding=pack(query), fetch_k=FETCH_K)],
        )
    )
    return int(answer.search_us)


def read_files(generations: Path) -> None:
    """Bring all files into the file cache."""
    for path in generations.rglob("*.*"):
        with path.open("rb") as file:
            while file.read(_READ_BYTES):
                pass


def drop_cached(path: Path) -> None:
    """Drop a file's pages from the file cache."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def major_faults(pid: int) -> int:
    """Return how often a process has waited for a page from the disk."""
    # The name, in brackets, may hold spaces; majflt is the tenth field after it. Source: proc(5).
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[9])


@contextmanager
def served(
    generations: Path, shard: int, verify: str, group: ControlGroup | None = None
) -> Iterator[Served]:
    """Start an index service, in a control group if one is given; yield it; stop it."""
    with tempfile.TemporaryDirectory() as folder:
        announced = Path(folder) / "announced.json"
        command = [
            sys.executable, "-m", "index_service", "--generations", str(generations),
            "--shard", str(shard), "--port", "0", "--http-port", "0", "--verify", verify,
            "--announce-file", str(announced), "--log-level", "error",
        ]  # fmt: skip
        started_s = time.perf_counter()
        process = subprocess.Popen(command, preexec_fn=group.enter if group else None)
        try:
            address = announced_address(announced, process)
            await_serving(address)
            yield Served(address, time.perf_counter() - started_s, process.pid)
        finally:
            process.terminate()
            process.wait(60)


def announced_address(announced: Path, process: "subprocess.Popen[bytes]") -> str:
    """Return the address that a process writes once it listens.

    Raises:
        CommandError: it has ended instead.
    """
    while not announced.exists():
        if process.poll() is not None:
            raise CommandError(f"the index service ended with status {process.returncode}")
        time.sleep(_POLL_S)
    return str(orjson.loads(announced.read_bytes())["address"])


def await_serving(address: str) -> None:
    """Return once health says SERVING."""
    with grpc.insecure_channel(address) as wire:
        watched = health_pb2_grpc.HealthStub(wire).Watch(
            health_pb2.HealthCheckRequest(), timeout=SERVING_TIMEOUT_S
        )
        for answer in watched:
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                watched.cancel()
                return


if __name__ == "__main__":
    typer.run(main)
