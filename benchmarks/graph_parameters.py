"""What a graph's parameters are worth: how much a search reads until it finds enough.

`python -m benchmarks.graph_parameters --work DIR --queries FILE.npy --cache DIR`

Folders are those of `benchmarks.index`. Every graph is over the codes that a build would make, in
the order that it would give them. Searches are of the graph alone, then 24 candidates are scored
with full vectors; ef_search is the least of steps of 16 that finds enough. Distances counted do not
depend on the machine. The times are of one thread, all graphs in turns.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import faiss
import numpy as np
import orjson
import typer

from benchmarks.gated import KERNELS_DIFFER
from benchmarks.index import SEED, Contender, Floats, cached, distinct_rows, in_turns, known_truth
from benchmarks.report import machine, percentile, write_result
from index_service.build.neighbourhood import neighbourhood
from index_service.build.projection import fit
from index_service.build.work_folder import WorkFolder
from index_service.build.workers import single_threaded
from index_service.generation.manifest import INDEX_KIND, IndexParameters
from index_service.halffloat import to_float32
from index_service.recall import RECALL_K, share_found
from index_service.scoring import Halves, score
from rpc.terminal import CommandError, errors_as_sentences, progress_bar

RESCORED = 24
EF_SEARCH_STEP = 16
EF_SEARCH_MAX = 2048
DEFAULT_GRAPHS = ["32:200", "16:200:all", "24:200", "24:200:all", "24:400", "32:400", "48:200"]
_BLOCK_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Kind:
    """How a graph is built."""

    m: int
    ef_construction: int
    keeps_all_links: bool
    """Whether links that FAISS would prune stay while there is room (`keep_max_size_level0`)."""

    @classmethod
    def parse(cls, text: str) -> "Kind":
        """Return what M:EF_CONSTRUCTION[:all] says.

        >>> Kind.parse("24:400:all")
        Kind(m=24, ef_construction=400, keeps_all_links=True)

        Raises:
            CommandError: it says something else.
        """
        m, _, rest = text.partition(":")
        ef_construction, _, keeps = rest.partition(":")
        if not m.isdecimal() or not ef_construction.isdecimal() or keeps not in ("", "all"):
            raise CommandError(f"{text!r} is no graph; write M:EF_CONSTRUCTION or 24:400:all")
        return cls(int(m), int(ef_construction), keeps == "all")


class Candidate:
    """A graph, and how hard it has to be searched."""

    def __init__(self, kind: Kind, halves: Halves, projection: Floats | None, cache: Path) -> None:
        """Build the graph unless it is in the cache."""
        self.kind = kind
        self._halves, self._projection = halves, projection
        parameters = IndexParameters(INDEX_KIND, kind.m, kind.ef_construction, SEED)
        name = "codes_all" if kind.keeps_all_links else "codes"
        order_path = cache / f"order_{name}_{len(halves)}_{kind.m}_{kind.ef_construction}.npy"

        def build() -> Any:
            index, order = built(kind, halves, projection)
            np.save(order_path, order)
            return index

        path, self.build_cpu_s = cached(name, build, len(halves), parameters, cache)
        self._index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
        self._order = np.load(order_path)
        self.graph_bytes = path.stat().st_size
        self.ef_search = 0
        self.recall = 0.0
        self.distances = 0.0

    @property
    def contender(self) -> Contender:
        """The graph as what is timed."""
        return Contender(
            repr(self.kind), self.nodes, self.graph_bytes, self.build_cpu_s, 0, self.ef_search
        )

    def nodes(self, query: Floats, ef_search: int) -> Any:
        """Return the best nodes for a query of shape (dim,) by their codes."""
        wanted = faiss.SearchParametersHNSW(efSearch=ef_search, bounded_queue=False)
        coded = query if self._projection is None else query @ self._projection
        return self._index.search(coded[np.newaxis], RESCORED, params=wanted)[1][0]

    def scores(self, query: Floats, ef_search: int) -> Floats:
        """Return the ten best scores by full vectors."""
        rows = self._order[self.nodes(query, ef_search)]
        scores: Floats = np.sort(score(query, self._halves[rows]))[::-1][:RECALL_K]
        return scores

    def calibrate(self, asked: Floats, truth: Floats, required: float) -> None:
        """Find the least ef_search that finds enough, and count what it reads."""
        low, high = 0, EF_SEARCH_MAX // EF_SEARCH_STEP
        while high - low > 1:
            middle = (low + high) // 2
            if self._measured(asked, truth, middle * EF_SEARCH_STEP)[0] >= required:
                high = middle
            else:
                low = middle
        self.ef_search = high * EF_SEARCH_STEP
        self.recall, self.distances = self._measured(asked, truth, self.ef_search)

    def _measured(self, asked: Floats, truth: Floats, ef_search: int) -> tuple[float, float]:
        """Return recall, and the distances computed a search."""
        stats = faiss.cvar.hnsw_stats
        stats.reset()
        found = np.stack([self.scores(query, ef_search) for query in asked])
        return share_found(truth, found + KERNELS_DIFFER), stats.ndis / len(asked)


def built(kind: Kind, halves: Halves, projection: Floats | None) -> tuple[Any, Any]:
    """Return a graph over codes, and the row of each node."""
    dim = halves.shape[1] if projection is None else projection.shape[1]
    index = faiss.IndexHNSWSQ(
        dim, faiss.ScalarQuantizer.QT_8bit, kind.m, faiss.METRIC_INNER_PRODUCT
    )
    index.hnsw.efConstruction = kind.ef_construction
    index.hnsw.rng = faiss.RandomGenerator(SEED)
    index.keep_max_size_level0 = kind.keeps_all_links
    floats = to_float32(halves)
    coded = floats if projection is None else floats @ projection
    index.train(coded)
    for start in range(0, len(coded), _BLOCK_ROWS):
        index.add(coded[start : start + _BLOCK_ROWS])
    order = neighbourhood(index.hnsw, len(coded))
    index.permute_entries(order)
    return index, order


def main(
    work: Annotated[Path, typer.Option(help="Folder with vectors.f16 and embed.json.")],
    queries: Annotated[Path, typer.Option(help="Query vectors, .npy, float32.")],
    cache: Annotated[Path, typer.Option(help="Folder that graphs are kept in.")],
    items: Annotated[int, typer.Option(help="Distinct vectors; 0 for all.")] = 100_000,
    graph: Annotated[
        list[str], typer.Option(help="M:EF_CONSTRUCTION, or with :all.")
    ] = DEFAULT_GRAPHS,
    required_recall: Annotated[float, typer.Option(help="ann_recall@10 to compare at.")] = 0.99,
    searches: Annotated[int, typer.Option(help="Timed searches of each.")] = 300,
    name: Annotated[str, typer.Option(help="Name of the result file.")] = "graph_parameters",
) -> None:
    """Build what is missing, find each ef_search, then time all in turns."""
    with errors_as_sentences(), single_threaded():
        kinds = [Kind.parse(text) for text in graph]
        cache.mkdir(parents=True, exist_ok=True)
        halves = WorkFolder.open(work).vectors()
        halves = np.ascontiguousarray(halves[distinct_rows(halves, items)])
        asked = np.load(queries)
        truth = known_truth(halves, asked, cache)
        projection = fit(halves)
        candidates = []
        with progress_bar("graphs", len(kinds)) as advance:
            for kind in kinds:
                candidates.append(Candidate(kind, halves, projection, cache))
                candidates[-1].calibrate(asked, truth, required_recall)
                advance(1)
        seconds = in_turns([each.contender for each in candidates], asked[:searches])
    figures = [
        {
            "m": each.kind.m,
            "ef_construction": each.kind.ef_construction,
            "keeps_all_links": each.kind.keeps_all_links,
            "ef_search": each.ef_search,
            "ann_recall_at_10": round(each.recall, 4),
            "distances_a_search": round(each.distances),
            "p50_us": round(percentile(seconds[repr(each.kind)], 0.5) * 1e6, 1),
            "build_cpu_s": round(each.build_cpu_s, 1),
            "graph_bytes_over_raw_float32": round(each.graph_bytes / (4 * halves.size), 3),
        }
        for each in candidates
    ]
    result = {**machine(), "items": len(halves), "queries": len(asked), "graphs": figures}
    typer.echo(orjson.dumps(figures, option=orjson.OPT_INDENT_2).decode())
    typer.echo(write_result(name, result))


if __name__ == "__main__":
    typer.run(main)
