"""How one shard's index compares with exact search and with FAISS's plain HNSW, at equal recall.

`python -m benchmarks.index --work DIR --queries FILE.npy --cache DIR`

A work folder is what `encoder_service.embed` writes. All three search the same distinct vectors
with the same queries, one query at a time on one thread, in turns. Graphs are kept in the cache
folder with the processor time that they took to build, and so is each ef_search that was found, so
that an interrupted run goes on. What building leaves behind in a process would hide what searching
takes of memory: run `--build-only` first.

This project's shard is searched as a build's gate would choose for these queries: ef_search, how
many candidates are rescored, and a first try; and once more without that first try. HNSWFlat's
ef_search is found for the same queries.
"""

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import faiss
import numpy as np
import orjson
import pyarrow as pa
import typer
import xxhash
from numpy.typing import NDArray

from benchmarks.gated import KERNELS_DIFFER, known_gate, measured
from benchmarks.report import anonymous_bytes, machine, percentile, write_result
from index_service.attributes import Attributes
from index_service.build.gate import EF_SEARCH_GRID
from index_service.build.generation import DEFAULT_EF_CONSTRUCTION, DEFAULT_M
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
from index_service.segment import Segment, map_halves
from index_service.shard import search_segment

Floats = NDArray[np.float32]
Search = Callable[[Floats, int], Floats]
"""Returns the scores of the best ten for a query of shape (dim,) at an ef_search."""

SEED = 1
EF_SEARCH_STEP = 8
TURN_QUERIES = 20
WARMING_EF_SEARCH = 64


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to search, what it takes, and at which ef_search it finds enough."""

    name: str
    search: Search
    graph_bytes: int
    build_cpu_s: float
    anonymous_bytes: int
    """Memory that it took to load and to search it, mapped files not counted."""
    ef_search: int = 0
    ann_recall_at_10: float = 1.0
    effort: Effort | None = None
    """How hard this project's search tries, whatever its ef_search says."""


def main(
    work: Annotated[Path, typer.Option(help="Folder with vectors.f16 and embed.json.")],
    queries: Annotated[Path, typer.Option(help="Query vectors, .npy, float32.")],
    cache: Annotated[Path, typer.Option(help="Folder that graphs are kept in.")],
    items: Annotated[int, typer.Option(help="Distinct vectors to index; 0 for all.")] = 0,
    m: Annotated[int, typer.Option(help="Links a node.")] = DEFAULT_M,
    ef_construction: Annotated[
        int, typer.Option(help="Candidates while building.")
    ] = DEFAULT_EF_CONSTRUCTION,
    required_recall: Annotated[float, typer.Option(help="ann_recall@10 to compare at.")] = 0.99,
    searches: Annotated[int, typer.Option(help="Timed searches of each way.")] = 300,
    with_hnsw_flat: Annotated[bool, typer.Option(help="Compare FAISS HNSWFlat, too.")] = True,
    build_only: Annotated[bool, typer.Option(help="Build graphs, measure nothing.")] = False,
    calibrate_only: Annotated[bool, typer.Option(help="Find ef_search, time nothing.")] = False,
    name: Annotated[str, typer.Option(help="Name of the result file.")] = "index",
) -> None:
    """Build what is missing, find each graph's ef_search, then time all in turns."""
    cache.mkdir(parents=True, exist_ok=True)
    halves = WorkFolder.open(work).vectors()
    halves = np.ascontiguousarray(halves[distinct_rows(halves, items)])
    asked = np.load(queries)
    parameters = IndexParameters(INDEX_KIND, m, ef_construction, SEED)
    with single_threaded():
        if build_only:
            build_vitrine(halves, parameters, cache)
            if with_hnsw_flat:
                build_hnsw_flat(halves, parameters, cache)
            return
        flat = exact(halves)
        truth = known_truth(halves, asked, cache)
        ways = vitrine(halves, parameters, cache, asked, truth, required_recall)
        if with_hnsw_flat:
            contender = hnsw_flat(halves, parameters, cache, asked)
            recalls = KnownRecalls(cache, f"{parameters.m}_{parameters.ef_construction}")
            ways.append(recalls.calibrated(contender, asked, truth, required_recall))
        if calibrate_only:
            return
        seconds = in_turns([flat, *ways], asked[:searches])
    figures = [figures_of(way, seconds, halves) for way in (flat, *ways)]
    result = {
        **machine(),
        "items": len(halves),
        "dim": halves.shape[1],
        "queries": len(asked),
        "m": m,
        "ef_construction": ef_construction,
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
    before = anonymous_bytes()
    index = faiss.IndexFlatIP(halves.shape[1])
    index.add(to_float32(halves))

    def search(query: Floats, _: int) -> Floats:
        scores: Floats = index.search(query[np.newaxis], RECALL_K)[0][0]
        return scores

    return Contender("flat", search, 0, 0.0, anonymous_bytes() - before)


def build_hnsw_flat(halves: Halves, parameters: IndexParameters, cache: Path) -> tuple[Path, float]:
    """Return the file of FAISS's HNSW over float32 vectors, and the seconds of its build."""

    def build() -> Any:
        index = faiss.IndexHNSWFlat(halves.shape[1], parameters.m, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = parameters.ef_construction
        index.hnsw.rng = faiss.RandomGenerator(parameters.seed)
        index.add(to_float32(halves))
        return index

    return cached("hnsw_flat", build, len(halves), parameters, cache)


def hnsw_flat(halves: Halves, parameters: IndexParameters, cache: Path, asked: Floats) -> Contender:
    """Return FAISS's HNSW over float32 vectors."""
    path, cpu_s = build_hnsw_flat(halves, parameters, cache)
    before = anonymous_bytes()
    index = faiss.read_index(str(path))

    def search(query: Floats, ef_search: int) -> Floats:
        wanted = faiss.SearchParametersHNSW(efSearch=ef_search)
        scores: Floats = index.search(query[np.newaxis], RECALL_K, params=wanted)[0][0]
        return scores

    return warmed("hnsw_flat", search, path.stat().st_size, cpu_s, before, asked)


def vitrine(
    halves: Halves,
    parameters: IndexParameters,
    cache: Path,
    asked: Floats,
    truth: Floats,
    required_recall: float,
) -> list[Contender]:
    """Return this project's search of one shard as its gate chooses, and without a first try.

    Rescoring and Python are included.
    """
    no_attributes = pa.table({"": pa.nulls(len(halves))})
    path, cpu_s = build_vitrine(halves, parameters, cache)
    before = anonymous_bytes()
    segment, _, _ = cached_segment(halves, no_attributes, parameters, cache)
    search = searching(segment, Effort(WARMING_EF_SEARCH))
    opened = warmed("vitrine", search, path.stat().st_size, cpu_s, before, asked)
    effort = known_gate([segment], asked, truth, required_recall, cache).effort
    efforts = {"vitrine": effort, "vitrine_without_first_try": replace(effort, first_try=None)}
    return [
        replace(
            opened,
            name=name,
            search=searching(segment, effort),
            ef_search=effort.ef_search,
            ann_recall_at_10=round(measured([segment], asked, truth, effort).ann_recall_at_10, 4),
            effort=effort,
        )
        for name, effort in efforts.items()
    ]


def searching(segment: Segment, effort: Effort) -> Search:
    """Return a search of one shard that tries so hard, whatever ef_search it is told."""
    return lambda query, _: search_shard(segment, query, effort)


def search_shard(segment: Segment, query: Floats, effort: Effort) -> Floats:
    """Return the scores of the best ten of one shard."""
    wanted = [Query(embedding=query, fetch_k=RECALL_K)]
    return search_segment(segment, wanted, effort, PlanLimits(), lambda: None)[0].scores


def warmed(
    name: str, search: Search, graph_bytes: int, cpu_s: float, before: int, asked: Floats
) -> Contender:
    """Return a contender that has searched, with the memory that it took since `before`."""
    for query in asked:
        search(query, WARMING_EF_SEARCH)
    return Contender(name, search, graph_bytes, cpu_s, anonymous_bytes() - before)


def build_vitrine(halves: Halves, parameters: IndexParameters, cache: Path) -> tuple[Path, float]:
    """Write this project's graph, vectors and nodes; return the graph, and its build's seconds."""
    vectors_path, nodes_path = segment_files(len(halves), parameters, cache)
    if not vectors_path.exists():
        vectors_path.write_bytes(halves.tobytes())

    def build() -> Any:
        rows = np.arange(len(halves))
        graph, order = build_graph(halves, rows, parameters, fit(halves), lambda _: None)
        np.save(nodes_path, renumbered(rows.astype(np.uint32), order))
        return graph

    return cached("vitrine", build, len(halves), parameters, cache)


def segment_files(items: int, parameters: IndexParameters, cache: Path) -> tuple[Path, Path]:
    """Return where vectors and nodes are kept."""
    key = f"{items}_{parameters.m}_{parameters.ef_construction}"
    return cache / f"vectors_{items}.f16", cache / f"nodes_{key}.npy"


def cached_segment(
    halves: Halves, attributes: pa.Table, parameters: IndexParameters, cache: Path
) -> tuple[Segment, Path, float]:
    """Return vectors as a segment, its graph's file, and the processor seconds of its build."""
    path, cpu_s = build_vitrine(halves, parameters, cache)
    vectors_path, nodes_path = segment_files(len(halves), parameters, cache)
    # As in a service, whose vectors are mapped, too.
    mapped = map_halves(vectors_path, *halves.shape)
    # Numbers of eight digits, so that ids are in the order of rows.
    item_ids = pa.array(np.arange(10**7, 10**7 + len(halves))).cast(pa.string())
    segment = Segment(
        Graph.open(path, halves.shape[1], faiss.__version__),
        Copies(np.load(nodes_path)),
        mapped,
        item_ids,
        Attributes.of_table(attributes),
        filters_cached_max=128,
    )
    return segment, path, cpu_s


def cached(
    name: str,
    build: Callable[[], Any],
    items: int,
    parameters: IndexParameters,
    cache: Path,
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


def known_truth(halves: Halves, queries: Floats, cache: Path) -> Floats:
    """Return the scores of the exact best ten, shape (queries, 10), kept in the cache folder."""
    asked = xxhash.xxh3_64_hexdigest(queries.tobytes())
    path = cache / f"truth_{len(halves)}_{asked}.npy"
    if not path.exists():
        index = faiss.IndexFlatIP(halves.shape[1])
        index.add(to_float32(halves))
        np.save(path, index.search(queries, RECALL_K)[0])
    truth: Floats = np.load(path)
    return truth


class KnownRecalls:
    """Measures recalls, and remembers them in the cache folder."""

    def __init__(self, cache: Path, key: str) -> None:
        self._cache = cache
        self._key = key

    def calibrated(
        self, way: Contender, queries: Floats, truth: Floats, required: float
    ) -> Contender:
        """Return a contender at the smallest ef_search that finds enough, within a step."""
        lowest, highest = EF_SEARCH_GRID[0], EF_SEARCH_GRID[-1]
        while highest - lowest > EF_SEARCH_STEP:
            middle = (lowest + highest) // 2
            if self.recall(way, queries, truth, middle) >= required:
                highest = middle
            else:
                lowest = middle
        recall = round(self.recall(way, queries, truth, highest), 4)
        return replace(way, ef_search=highest, ann_recall_at_10=recall)

    def recall(self, way: Contender, queries: Floats, truth: Floats, ef_search: int) -> float:
        """Return ann_recall@10 over all queries."""
        asked = xxhash.xxh3_64_hexdigest(truth.tobytes())
        path = self._cache / f"recalls_{way.name}_{self._key}_{asked}.json"
        known: dict[str, float] = orjson.loads(path.read_bytes()) if path.exists() else {}
        if str(ef_search) not in known:
            found = np.stack([way.search(query, ef_search) for query in queries])
            known[str(ef_search)] = share_found(truth, found + KERNELS_DIFFER)
            path.write_bytes(orjson.dumps(known))
        return known[str(ef_search)]


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
    mean = statistics.mean(seconds[way.name])
    flat_p50 = percentile(seconds["flat"], 0.5)
    hnsw_p50 = percentile(seconds["hnsw_flat"], 0.5) if "hnsw_flat" in seconds else None
    raw_bytes = 4 * halves.size
    return {
        "way": way.name,
        "ef_search": way.ef_search,
        "effort": asdict(way.effort) if way.effort else None,
        "ann_recall_at_10": way.ann_recall_at_10,
        "p50_us": round(p50 * 1e6, 1),
        "p95_us": round(p95 * 1e6, 1),
        "mean_us": round(mean * 1e6, 1),
        "flat_p50_over_p50": round(flat_p50 / p50, 1),
        "p50_over_hnsw_flat": round(p50 / hnsw_p50, 3) if hnsw_p50 else None,
        "graph_bytes_over_raw_float32": round(way.graph_bytes / raw_bytes, 3),
        "anonymous_bytes_over_raw_float32": round(way.anonymous_bytes / raw_bytes, 3),
        "build_cpu_s": round(way.build_cpu_s, 1),
    }


if __name__ == "__main__":
    typer.run(main)
