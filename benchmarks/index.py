"""How one shard's index compares with exact search and with FAISS's plain HNSW, at equal recall.

`python -m benchmarks.index --work DIR --queries FILE.npy --cache DIR`

A work folder is what `encoder_service.embed` writes. All three search the same distinct vectors
with the same queries, one query at a time on one thread, in turns. Graphs are kept in the cache
folder with the processor time that they took to build, so that an interrupted run goes on.
"""

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import faiss
import numpy as np
import orjson
import pyarrow as pa
import typer
from numpy.typing import NDArray

from benchmarks.report import machine, percentile, write_result
from index_service.attributes import Attributes
from index_service.build.gate import EF_SEARCH_GRID
from index_service.build.projection import fit
from index_service.build.shard_files import build_graph
from index_service.build.work_folder import WorkFolder
from index_service.build.workers import single_threaded
from index_service.copies import Copies, first_rows, nodes_of, renumbered
from index_service.generation.manifest import INDEX_KIND, IndexParameters
from index_service.graph import Graph
from index_service.halffloat import to_float32
from index_service.planner import Effort, PlanLimits
from index_service.query import Query
from index_service.recall import RECALL_K, share_found
from index_service.scoring import Halves, Rows
from index_service.segment import Segment
from index_service.shard import search_segment

Floats = NDArray[np.float32]
Search = Callable[[Floats, int], Floats]
"""Returns the scores of the best ten for a query of shape (dim,) at an ef_search."""

SEED = 1
EF_SEARCH_STEP = 8
TURN_QUERIES = 20


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to search, what it takes, and at which ef_search it finds enough."""

    name: str
    search: Search
    graph_bytes: int
    build_cpu_s: float
    ef_search: int = 0
    ann_recall_at_10: float = 1.0


def main(
    work: Annotated[Path, typer.Option(help="Folder with vectors.f16 and embed.json.")],
    queries: Annotated[Path, typer.Option(help="Query vectors, .npy, float32.")],
    cache: Annotated[Path, typer.Option(help="Folder that graphs are kept in.")],
    items: Annotated[int, typer.Option(help="Distinct vectors to index; 0 for all.")] = 0,
    m: Annotated[int, typer.Option(help="Links a node.")] = 32,
    ef_construction: Annotated[int, typer.Option(help="Candidates while building.")] = 200,
    required_recall: Annotated[float, typer.Option(help="ann_recall@10 to compare at.")] = 0.99,
    searches: Annotated[int, typer.Option(help="Timed searches of each way.")] = 300,
    rescored: Annotated[int, typer.Option(help="Candidates scored with full vectors.")] = 24,
    build_only: Annotated[bool, typer.Option(help="Fill the cache, measure nothing.")] = False,
    name: Annotated[str, typer.Option(help="Name of the result file.")] = "index",
) -> None:
    """Build what is missing, find each graph's ef_search, then time all in turns."""
    cache.mkdir(parents=True, exist_ok=True)
    halves = WorkFolder.open(work).vectors()
    halves = np.ascontiguousarray(halves[distinct_rows(halves, items)])
    asked = np.load(queries)
    parameters = IndexParameters(INDEX_KIND, m, ef_construction, SEED)
    with single_threaded():
        ways = [vitrine(halves, parameters, rescored, cache), hnsw_flat(halves, parameters, cache)]
        if build_only:
            return
        flat = exact(halves)
        truth = np.stack([flat.search(query, 0) for query in asked])
        ways = [calibrated(way, asked, truth, required_recall) for way in ways]
        seconds = in_turns([flat, *ways], asked[:searches])
    figures = [figures_of(way, seconds, halves) for way in (flat, *ways)]
    result = {
        **machine(),
        "items": len(halves),
        "dim": halves.shape[1],
        "queries": len(asked),
        "m": m,
        "ef_construction": ef_construction,
        "rescored": rescored,
        "required_ann_recall_at_10": required_recall,
        "ways": figures,
    }
    typer.echo(orjson.dumps(figures, option=orjson.OPT_INDENT_2).decode())
    typer.echo(write_result(name, result))


def distinct_rows(halves: Halves, items: int) -> Rows:
    """Return the first row of each distinct vector, or of so many, drawn with a fixed seed."""
    rows = first_rows(nodes_of(halves))
    if 0 < items < len(rows):
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:items])
    return rows


def exact(halves: Halves) -> Contender:
    """Return FAISS's exact search over float32 vectors."""
    index = faiss.IndexFlatIP(halves.shape[1])
    index.add(to_float32(halves))

    def search(query: Floats, _: int) -> Floats:
        scores: Floats = index.search(query[np.newaxis], RECALL_K)[0][0]
        return scores

    return Contender("flat", search, graph_bytes=0, build_cpu_s=0.0)


def hnsw_flat(halves: Halves, parameters: IndexParameters, cache: Path) -> Contender:
    """Return FAISS's HNSW over float32 vectors."""

    def build() -> Any:
        index = faiss.IndexHNSWFlat(halves.shape[1], parameters.m, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = parameters.ef_construction
        index.hnsw.rng = faiss.RandomGenerator(parameters.seed)
        index.add(to_float32(halves))
        return index

    path, cpu_s = cached("hnsw_flat", build, len(halves), parameters, cache)
    index = faiss.read_index(str(path))

    def search(query: Floats, ef_search: int) -> Floats:
        wanted = faiss.SearchParametersHNSW(efSearch=ef_search)
        scores: Floats = index.search(query[np.newaxis], RECALL_K, params=wanted)[0][0]
        return scores

    return Contender("hnsw_flat", search, path.stat().st_size, cpu_s)


def vitrine(halves: Halves, parameters: IndexParameters, rescored: int, cache: Path) -> Contender:
    """Return this project's search of one shard, rescoring and Python included."""
    no_attributes = pa.table({"": pa.nulls(len(halves))})
    segment, path, cpu_s = cached_segment(halves, no_attributes, parameters, cache)
    limits = PlanLimits()

    def search(query: Floats, ef_search: int) -> Floats:
        asked = [Query(embedding=query, fetch_k=RECALL_K)]
        effort = Effort(ef_search, rescored)
        return search_segment(segment, asked, effort, limits, lambda: None)[0].scores

    return Contender("vitrine", search, path.stat().st_size, cpu_s)


def cached_segment(
    halves: Halves, attributes: pa.Table, parameters: IndexParameters, cache: Path
) -> tuple[Segment, Path, float]:
    """Return vectors as a segment, its graph's file, and the processor seconds of its build."""
    nodes_path = cache / f"nodes_{len(halves)}_{parameters.m}_{parameters.ef_construction}.npy"

    def build() -> Any:
        rows = np.arange(len(halves))
        graph, order = build_graph(halves, rows, parameters, fit(halves), lambda _: None)
        np.save(nodes_path, renumbered(rows.astype(np.uint32), order))
        return graph

    path, cpu_s = cached("vitrine", build, len(halves), parameters, cache)
    segment = Segment(
        Graph.open(path, halves.shape[1], faiss.__version__),
        Copies(np.load(nodes_path)),
        halves,
        pa.array([f"{row:08d}" for row in range(len(halves))]),
        Attributes.of_table(attributes),
        filters_cached_max=128,
    )
    return segment, path, cpu_s


def cached(
    name: str, build: Callable[[], Any], items: int, parameters: IndexParameters, cache: Path
) -> tuple[Path, float]:
    """Return a graph's file and the processor seconds of its build, building it when missing."""
    key = f"{name}_{items}_{parameters.m}_{parameters.ef_construction}_{parameters.seed}"
    path, report = cache / f"{key}.faiss", cache / f"{key}.json"
    if not report.exists():
        started_s = processor_s()
        index = build()
        taken_s = processor_s() - started_s
        faiss.write_index(index, str(path))
        report.write_bytes(orjson.dumps({"build_cpu_s": taken_s}))
    return path, float(orjson.loads(report.read_bytes())["build_cpu_s"])


def processor_s() -> float:
    """Return the processor seconds of this process: waiting for other work does not count."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def calibrated(way: Contender, queries: Floats, truth: Floats, required: float) -> Contender:
    """Return a contender at the smallest ef_search that finds enough, within a step.

    Scores of different kernels differ in the last digits, hence the allowance.
    """

    def recall_at(ef_search: int) -> float:
        found = np.stack([way.search(query, ef_search) for query in queries])
        return share_found(truth, found + np.float32(1e-6))

    lowest, highest = EF_SEARCH_GRID[0], EF_SEARCH_GRID[-1]
    while highest - lowest > EF_SEARCH_STEP:
        middle = (lowest + highest) // 2
        if recall_at(middle) >= required:
            highest = middle
        else:
            lowest = middle
    recall = round(recall_at(highest), 4)
    return replace(way, ef_search=highest, ann_recall_at_10=recall)


def in_turns(ways: list[Contender], queries: Floats) -> dict[str, list[float]]:
    """Return the seconds of each contender's searches, some queries of each in turns.

    A few queries in a row, so that each finds in the processor's caches what its own queries left.
    """
    seconds: dict[str, list[float]] = {way.name: [] for way in ways}
    for start in range(0, len(queries), TURN_QUERIES):
        for way in ways:
            for query in queries[start : start + TURN_QUERIES]:
                started_s = time.perf_counter()
                way.search(query, way.ef_search)
                seconds[way.name].append(time.perf_counter() - started_s)
    return seconds


def figures_of(way: Contender, seconds: dict[str, list[float]], halves: Halves) -> dict[str, Any]:
    """Return a contender's row of the result."""
    p50, p95 = (percentile(seconds[way.name], share) for share in (0.5, 0.95))
    flat_p50 = percentile(seconds["flat"], 0.5)
    hnsw_p50 = percentile(seconds["hnsw_flat"], 0.5)
    return {
        "way": way.name,
        "ef_search": way.ef_search,
        "ann_recall_at_10": way.ann_recall_at_10,
        "p50_us": round(p50 * 1e6, 1),
        "p95_us": round(p95 * 1e6, 1),
        "flat_p50_over_p50": round(flat_p50 / p50, 1),
        "p50_over_hnsw_flat": round(p50 / hnsw_p50, 3),
        "graph_bytes_over_raw_float32": round(way.graph_bytes / (4 * halves.size), 3),
        "build_cpu_s": round(way.build_cpu_s, 1),
    }


if __name__ == "__main__":
    typer.run(main)
