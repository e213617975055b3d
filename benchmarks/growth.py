"""How the cost of a search grows with items, with shards, and with threads; a plot of it.

`python -m benchmarks.growth --work DIR --queries FILE.npy --cache DIR`

Folders are those of `benchmarks.index`. Every point is searched as a build's gate would choose for
some of the queries at ann_recall@10 of 0.99 over all its shards; one shard alone may have a first
try, several have none. Shards of one search are searched one after the other on one thread: their
sum is what a search costs, the slowest is what it takes where every shard has a core.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import orjson
import pyarrow as pa
import typer
import xxhash

from benchmarks.gated import known_gate
from benchmarks.index import (
    SEED,
    TURN_QUERIES,
    Floats,
    build_vitrine,
    cached_segment,
    known_truth,
    search_shard,
)
from benchmarks.report import machine, percentile, write_result
from index_service.build.generation import BuildSettings
from index_service.build.work_folder import WorkFolder
from index_service.build.workers import available_cores, single_threaded
from index_service.copies import first_rows, nodes_of
from index_service.planner import Effort
from index_service.scoring import Halves, Rows
from index_service.segment import Segment

REQUIRED_RECALL = 0.99
GATE_QUERIES = 300
PARAMETERS = BuildSettings(num_shards=1, seed=SEED).parameters
PLOT = Path("docs/images/index_growth.png")
_DRAWN_SEED = 0


class Point:
    """Some vectors, cut into some shards, and how hard to search them."""

    def __init__(self, halves: Halves, rows: Rows, num_shards: int, cache: Path) -> None:
        """Build what is missing of the shards' graphs.

        Args:
            halves: all vectors, shape (items, dim).
            rows: the point's own, in an order drawn at random.
            num_shards: consecutive pieces of these become shards.
            cache: folder that graphs are kept in.
        """
        self.items = len(rows)
        self.num_shards = num_shards
        self.rows = np.sort(rows)
        self.effort = Effort(1)
        self.ann_recall_at_10 = 0.0
        cut = pieces(rows, num_shards)
        self._pieces = [np.ascontiguousarray(halves[piece]) for piece in cut]
        self._caches = [piece_folder(cache, piece) for piece in cut]
        for piece, folder in zip(self._pieces, self._caches, strict=True):
            build_vitrine(piece, PARAMETERS, folder)
        self.segments: list[Segment] = []

    def open(self) -> None:
        """Map the shards."""
        self.segments = [
            cached_segment(piece, pa.table({"": pa.nulls(len(piece))}), PARAMETERS, folder)[0]
            for piece, folder in zip(self._pieces, self._caches, strict=True)
        ]

    def calibrate(self, halves: Halves, asked: Floats, cache: Path) -> None:
        """Find how hard all shards are to be searched."""
        some = asked[:GATE_QUERIES]
        truth = known_truth(np.ascontiguousarray(halves[self.rows]), some, cache)
        gate = known_gate(self.segments, some, truth, REQUIRED_RECALL, cache)
        self.effort, self.ann_recall_at_10 = gate.effort, round(gate.ann_recall_at_10, 4)

    def seconds(self, query: Floats) -> list[float]:
        """Return how long each shard takes for a query."""
        times = [time.perf_counter()]
        for segment in self.segments:
            search_shard(segment, query, self.effort)
            times.append(time.perf_counter())
        return np.diff(times).tolist()


def main(
    work: Annotated[Path, typer.Option(help="Folder with vectors.f16 and embed.json.")],
    queries: Annotated[Path, typer.Option(help="Query vectors, .npy, float32.")],
    cache: Annotated[Path, typer.Option(help="Folder that graphs are kept in.")],
    items: Annotated[
        list[int], typer.Option(help="Vectors of one shard; more than there are for all.")
    ] = [50_000, 100_000, 200_000, 400_000, 800_000],  # noqa: B006
    shards: Annotated[list[int], typer.Option(help="Shards of one catalogue.")] = [1, 2, 4, 8],  # noqa: B006
    sharded_items: Annotated[int, typer.Option(help="Its vectors; 0 for all there are.")] = 200_000,
    threads: Annotated[list[int], typer.Option(help="Threads of one process.")] = [1, 2, 4],  # noqa: B006
    searches: Annotated[int, typer.Option(help="Timed searches of each point.")] = 300,
    seconds: Annotated[float, typer.Option(help="How long threads search.")] = 3.0,
    build_only: Annotated[bool, typer.Option(help="Build graphs, measure nothing.")] = False,
    calibrate_only: Annotated[bool, typer.Option(help="Find ef_search, time nothing.")] = False,
    name: Annotated[str, typer.Option(help="Name of the result file.")] = "growth",
) -> None:
    """Build what is missing, find each ef_search, then time all points in turns."""
    halves = WorkFolder.open(work).vectors()
    asked = np.load(queries)
    drawn = drawn_rows(halves)
    with single_threaded():
        by_items = [Point(halves, drawn[:count], 1, cache) for count in items]
        by_shards = [
            Point(halves, drawn[: sharded_items or None], count, cache) for count in shards
        ]
        points = [*by_items, *by_shards]
        if build_only:
            return
        for point in points:
            point.open()
            point.calibrate(halves, asked, cache)
        if calibrate_only:
            return
        rows = in_turns(points, asked[:searches])
        result = {
            **machine(),
            "dim": halves.shape[1],
            "queries": len(asked),
            "m": PARAMETERS.m,
            "ef_construction": PARAMETERS.ef_construction,
            "gate_queries": GATE_QUERIES,
            "by_items": rows[: len(by_items)],
            "by_shards": rows[len(by_items) :],
            "by_threads": by_threads(by_shards[0], threads, asked, seconds),
        }
    typer.echo(orjson.dumps(result, option=orjson.OPT_INDENT_2).decode())
    typer.echo(write_result(name, result))
    typer.echo(plot(result, PLOT))


def drawn_rows(halves: Halves) -> Rows:
    """Return the first row of each distinct vector, in an order drawn at random."""
    return np.random.default_rng(_DRAWN_SEED).permutation(first_rows(nodes_of(halves)))


def pieces(rows: Rows, num_shards: int) -> list[Rows]:
    """Return the rows of each shard, ascending."""
    return [np.sort(piece) for piece in np.array_split(rows, num_shards)]


def piece_folder(cache: Path, rows: Rows) -> Path:
    """Return the folder of one shard's files, by the rows that it holds."""
    folder = cache / f"rows_{xxhash.xxh3_64_hexdigest(rows.tobytes())}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def in_turns(points: Sequence[Point], asked: Floats) -> list[dict[str, Any]]:
    """Return each point's row of the result; points are searched some queries each in turns."""
    times: list[list[list[float]]] = [[] for _ in points]
    for start in range(0, len(asked), TURN_QUERIES):
        for own, point in zip(times, points, strict=True):
            own += [point.seconds(query) for query in asked[start : start + TURN_QUERIES]]
    return [figures_of(point, own) for point, own in zip(points, times, strict=True)]


def figures_of(point: Point, times: list[list[float]]) -> dict[str, Any]:
    """Return one point's row of the result."""
    sums = [sum(of_shards) for of_shards in times]
    return {
        "items": point.items,
        "shards": point.num_shards,
        "effort": asdict(point.effort),
        "ann_recall_at_10": point.ann_recall_at_10,
        "core_us_p50": round(percentile(sums, 0.5) * 1e6, 1),
        "core_us_p95": round(percentile(sums, 0.95) * 1e6, 1),
        "slowest_shard_us_p50": round(percentile([max(each) for each in times], 0.5) * 1e6, 1),
        "searches_a_second_a_core": round(len(sums) / sum(sums), 1),
    }


def by_threads(
    point: Point, threads: Sequence[int], asked: Floats, seconds: float
) -> list[dict[str, Any]]:
    """Return searches a second of one shard by the threads that search it."""
    cores = available_cores()
    rows = []
    for count in threads:
        rate = searches_a_second(point, count, asked, seconds)
        used = min(count, cores)
        rows.append(
            {
                "threads": count,
                "cores_used": used,
                "searches_a_second": round(rate, 1),
                "searches_a_second_a_core": round(rate / used, 1),
            }
        )
    return rows


def searches_a_second(point: Point, threads: int, asked: Floats, seconds: float) -> float:
    """Return how many searches some threads make together, each with queries of its own."""
    counts = [0] * threads
    until_s = time.perf_counter() + seconds

    def call(thread: int) -> None:
        place = thread * len(asked) // threads
        while time.perf_counter() < until_s:
            search_shard(point.segments[0], asked[place % len(asked)], point.effort)
            place += 1
            counts[thread] += 1

    running = [threading.Thread(target=call, args=(thread,)) for thread in range(threads)]
    started_s = time.perf_counter()
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sum(counts) / (time.perf_counter() - started_s)


def plot(result: dict[str, Any], path: Path) -> Path:
    """Draw the time of a search by items, and by shards."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    by_items, by_shards = figure.subplots(1, 2)
    rows = result["by_items"]
    counts = [row["items"] for row in rows]
    means = [1e6 / row["searches_a_second_a_core"] for row in rows]
    by_items.plot(counts, [row["core_us_p50"] for row in rows], marker="o", label="p50")
    by_items.plot(counts, means, marker="o", label="mean")
    by_items.set_xlabel("items of one shard, thousands")
    by_items.set_xticks(counts, [f"{count / 1e3:.0f}" for count in counts])
    by_items.set_ylabel("a search, microseconds")
    rows = result["by_shards"]
    counts = [row["shards"] for row in rows]
    every = [row["core_us_p50"] for row in rows]
    slowest = [row["slowest_shard_us_p50"] for row in rows]
    by_shards.plot(counts, every, marker="o", label="p50, all shards")
    by_shards.plot(counts, slowest, marker="o", label="p50, slowest shard")
    by_shards.set_xlabel(f"shards of {rows[0]['items']:,} items")
    by_shards.set_xticks(counts)
    for axes in (by_items, by_shards):
        axes.legend()
        axes.set_ylim(bottom=0)
    figure.suptitle(f"Searches at ann_recall@10 of {REQUIRED_RECALL}, one core ({result['cpu']})")
    figure.savefig(path, dpi=120)
    return path


if __name__ == "__main__":
    typer.run(main)
