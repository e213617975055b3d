"""Tries setups of the graph on a sample, and picks the fastest that finds what must be found."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from index_service.build.gate import EF_SEARCH_GRID, RESCORED_GRID
from index_service.build.projection import fit
from index_service.build.shard_files import build_graph
from index_service.build.work_folder import WorkFolder
from index_service.build.workers import Advance, Workers
from index_service.copies import Copies, first_rows, nodes_of, renumbered
from index_service.generation.manifest import INDEX_KIND, IndexParameters
from index_service.graph import Graph
from index_service.planner import Effort, PlanLimits
from index_service.recall import approximate_scores, exact_scores, median_us, share_found
from index_service.scoring import Halves, Rows
from index_service.segment import Segment
from rpc.files import replace_file

TUNING_FILE = "tuning.json"
PLOT_FILE = "tuning.png"

M_TRIED = (16, 24, 32, 48)
SAMPLE_ITEMS = 20_000
"""Enough to tell setups apart; ef_search is found on the whole generation."""
_SAMPLE_SEED = 0


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """What one ef_search finds, and what it takes."""

    ef_search: int
    ann_recall_at_10: float
    search_p50_us: float


@dataclass(frozen=True, slots=True)
class Curve:
    """One setup of the graph on the sample."""

    m: int
    code_dim: int
    graph_bytes_per_item: int
    points: tuple[CurvePoint, ...]

    def p50_us_at(self, recall: float) -> float:
        """Return the time at a recall, between the points measured; infinite where none reaches it.

        >>> points = (CurvePoint(16, 0.9, 100.0), CurvePoint(32, 1.0, 200.0))
        >>> Curve(32, 256, 512, points).p50_us_at(0.95)
        150.0
        """
        if self.points[0].ann_recall_at_10 >= recall:
            return self.points[0].search_p50_us
        for below, above in pairwise(self.points):
            if above.ann_recall_at_10 >= recall:
                gained = above.ann_recall_at_10 - below.ann_recall_at_10
                share = (recall - below.ann_recall_at_10) / gained
                added_us = above.search_p50_us - below.search_p50_us
                return round(below.search_p50_us + share * added_us, 1)
        return float("inf")


@dataclass(frozen=True, slots=True)
class Tuning:
    """All setups tried, and the one to build with."""

    key: str
    """What it was measured on; another catalogue or recall tunes anew."""
    sample_items: int
    required_ann_recall_at_10: float
    curves: tuple[Curve, ...]

    @property
    def chosen(self) -> Curve:
        """The fastest that finds enough, the smaller of equals; else the one that finds most."""
        required = self.required_ann_recall_at_10
        best = min(
            self.curves, key=lambda each: (each.p50_us_at(required), each.graph_bytes_per_item)
        )
        if best.p50_us_at(required) < float("inf"):
            return best
        return max(self.curves, key=lambda each: each.points[-1].ann_recall_at_10)

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        chosen = self.chosen
        return {**asdict(self), "chosen": {"m": chosen.m, "code_dim": chosen.code_dim}}


@dataclass(frozen=True, slots=True, eq=False)
class TuneTask:
    """One setup to try."""

    work: WorkFolder
    rows: Rows
    parameters: IndexParameters


def tune(
    work: WorkFolder, workers: Workers, ef_construction: int, seed: int, required_recall: float
) -> Tuning:
    """Try every setup on a sample, unless the work folder holds what came of it.

    Leaves tuning.json and, where matplotlib is installed, tuning.png in the work folder.
    """
    key = f"{work.fingerprint()} {ef_construction} {seed} {required_recall}"
    path = work.folder / TUNING_FILE
    if known := _read(path, key):
        return known
    rows = _sample(work.items)
    tasks = [
        TuneTask(work, rows, IndexParameters(INDEX_KIND, m, ef_construction, seed, code_dim))
        for code_dim in _code_dims(work.vectors()[rows])
        for m in M_TRIED
    ]
    curves = workers.run(try_setup, tasks, "try setups", len(tasks) * len(rows))
    tuning = Tuning(key, len(rows), required_recall, tuple(curves))
    replace_file(path, orjson.dumps(tuning.document(), option=orjson.OPT_INDENT_2))
    plot(tuning, work.folder / PLOT_FILE)
    return tuning


def try_setup(task: TuneTask, advance: Advance) -> Curve:
    """Build one graph over the sample and search it with every probe at every ef_search."""
    halves = np.ascontiguousarray(task.work.vectors()[task.rows])
    probes = task.work.probes()
    code_dim = task.parameters.code_dim or halves.shape[1]
    segment = sample_segment(halves, task.parameters, advance)
    limits = PlanLimits()
    exact = exact_scores(segment, probes, limits, _never)
    points = []
    for ef_search in EF_SEARCH_GRID:
        effort = Effort(ef_search, RESCORED_GRID[-1])
        found, seconds = approximate_scores(segment, probes, effort, limits, _never)
        points.append(CurvePoint(ef_search, share_found(exact, found), median_us(seconds)))
    # A link is 4 bytes, and the lowest level, where nearly all are, has twice m.
    graph_bytes = code_dim + 8 * task.parameters.m
    return Curve(task.parameters.m, code_dim, graph_bytes, tuple(points))


def sample_segment(halves: Halves, parameters: IndexParameters, advance: Advance) -> Segment:
    """Return vectors as a segment in memory, without attributes; ids are row numbers."""
    nodes = nodes_of(halves)
    projection = fit(halves, parameters.code_dim)
    index, order = build_graph(halves, first_rows(nodes), parameters, projection, advance)
    return Segment(
        Graph.of(index),
        Copies(renumbered(nodes, order)),
        halves,
        pa.array([f"{row:08d}" for row in range(len(halves))], type=pa.string()),
        attributes=None,
    )


def plot(tuning: Tuning, path: Path) -> bool:
    """Draw recall against time of every setup; False where matplotlib is not installed."""
    try:
        # Heavy, and wanted here alone.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for curve in tuning.curves:
        recalls = [point.ann_recall_at_10 for point in curve.points]
        times = [point.search_p50_us for point in curve.points]
        label = f"m {curve.m}, {curve.code_dim} dimensions, {curve.graph_bytes_per_item} bytes"
        width = 3.0 if curve is tuning.chosen else 1.0
        axes.plot(recalls, times, marker=".", linewidth=width, label=label)
    axes.axvline(tuning.required_ann_recall_at_10, color="grey", linestyle=":")
    axes.set_xlabel("ann_recall@10")
    axes.set_ylabel("search p50, microseconds")
    axes.set_title(f"{tuning.sample_items:,} items; bold: chosen; bytes of the graph an item")
    axes.legend(fontsize="small")
    aside = path.with_name(f".{path.name}.part")
    figure.savefig(aside, format="png", dpi=120)
    aside.replace(path)
    return True


def _sample(items: int) -> Rows:
    rows = np.random.default_rng(_SAMPLE_SEED).permutation(items)[:SAMPLE_ITEMS]
    return np.sort(rows)


def _code_dims(halves: Halves) -> Sequence[int]:
    """Return the numbers of dimensions to try: what is needed for nearly all, and all."""
    dim = halves.shape[1]
    projection = fit(halves)
    return (dim,) if projection is None else (projection.shape[1], dim)


def _read(path: Path, key: str) -> Tuning | None:
    """Return what an interrupted build has found out, if it was about the same."""
    try:
        document = orjson.loads(path.read_bytes())
        document.pop("chosen", None)
        known = TypeAdapter(Tuning).validate_python(document)
    except (FileNotFoundError, orjson.JSONDecodeError, ValidationError, AttributeError):
        return None
    return known if known.key == key else None


def _never() -> None:
    """Never stop."""
