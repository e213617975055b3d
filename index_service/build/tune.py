"""Tries setups of the graph on a sample, and picks the fastest that finds what must be found."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import faiss
import numpy as np
import orjson
import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from index_service.build.gate import EF_SEARCH_GRID, RESCORED_GRID
from index_service.build.projection import fit
from index_service.build.shard_files import write_graph, write_item_ids
from index_service.build.work_folder import WorkFolder
from index_service.build.workers import Advance, Workers
from index_service.generation.manifest import (
    GRAPH_FILE,
    INDEX_KIND,
    VECTORS_FILE,
    IndexParameters,
)
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
_METHOD = 2
"""Counts up when what is measured changes; figures of an earlier one are not taken over."""


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
    """Of graph.faiss; the projection of codes in it is one a shard, however many items that has."""
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
class Setup:
    """One setup to try, and where its files are."""

    work: WorkFolder
    rows: Rows
    parameters: IndexParameters
    folder: Path

    def segment(self) -> Segment:
        """Map what `build_setup` wrote."""
        dim = self.work.encoder.dim
        return Segment.open_unfiltered(self.folder, len(self.rows), dim, faiss.__version__)

    def curve(self, points: Sequence[CurvePoint]) -> Curve:
        """Return what was found out about it."""
        graph_bytes = (self.folder / GRAPH_FILE).stat().st_size
        return Curve(
            self.parameters.m,
            self.parameters.code_dim or self.work.encoder.dim,
            round(graph_bytes / len(self.rows)),
            tuple(points),
        )


def tune(
    work: WorkFolder, workers: Workers, ef_construction: int, seed: int, required_recall: float
) -> Tuning:
    """Try every setup on a sample, unless the work folder holds what came of it.

    Leaves tuning.json and, where matplotlib is installed, tuning.png in the work folder.
    """
    key = f"{_METHOD} {work.fingerprint()} {ef_construction} {seed} {required_recall}"
    path = work.folder / TUNING_FILE
    if known := _read(path, key):
        return known
    rows = _sample(work.items)
    with TemporaryDirectory(prefix=".tuning-", dir=work.folder) as scratch:
        setups = [
            Setup(
                work,
                rows,
                IndexParameters(INDEX_KIND, m, ef_construction, seed, code_dim),
                Path(scratch) / f"m-{m}-dim-{code_dim}",
            )
            for code_dim in _code_dims(work.vectors()[rows])
            for m in M_TRIED
        ]
        # 1. All are built side by side.
        workers.run(build_setup, setups, "build setups", len(setups) * len(rows))
        # 2. They are searched in turns by one process, alone: a time would contain others' load.
        searches = len(setups) * len(EF_SEARCH_GRID)
        [curves] = workers.run(search_setups, [setups], "search setups", searches)
    tuning = Tuning(key, len(rows), required_recall, tuple(curves))
    replace_file(path, orjson.dumps(tuning.document(), option=orjson.OPT_INDENT_2))
    plot(tuning, work.folder / PLOT_FILE)
    return tuning


def build_setup(setup: Setup, advance: Advance) -> None:
    """Write the sample as a shard without attributes; ids are row numbers."""
    halves = setup.work.vectors()[setup.rows]
    items, dim = halves.shape
    setup.folder.mkdir()
    halves.tofile(setup.folder / VECTORS_FILE)
    item_ids = [f"{row:08d}" for row in range(items)]
    write_item_ids(setup.folder, pa.array(item_ids, type=pa.string()))
    projection = fit(halves, setup.parameters.code_dim)
    write_graph(setup.folder, items, dim, setup.parameters, projection, advance)


def search_setups(setups: Sequence[Setup], advance: Advance) -> list[Curve]:
    """Search each setup with every probe at every ef_search, one setup after the other at each."""
    segments = [setup.segment() for setup in setups]
    probes, limits = setups[0].work.probes(), PlanLimits()
    exact = exact_scores(segments[0], probes, limits, _never)
    efforts = [Effort(ef_search, RESCORED_GRID[-1]) for ef_search in EF_SEARCH_GRID]
    for segment in segments:
        # What is mapped is read from the disk now, not at the first ef_search.
        approximate_scores(segment, probes, efforts[0], limits, _never)
    points: list[list[CurvePoint]] = [[] for _ in setups]
    for effort in efforts:
        for segment, own in zip(segments, points, strict=True):
            found, seconds = approximate_scores(segment, probes, effort, limits, _never)
            own.append(CurvePoint(effort.ef_search, share_found(exact, found), median_us(seconds)))
            advance(1)
    return [setup.curve(own) for setup, own in zip(setups, points, strict=True)]


def plot(tuning: Tuning, path: Path) -> bool:
    """Draw time by recall, and size by time, of every setup; False where matplotlib is absent."""
    try:
        # Heavy, and wanted here alone.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(13, 5), layout="constrained")
    FigureCanvasAgg(figure)
    times, sizes = figure.subplots(1, 2)
    _draw_times(times, tuning)
    _draw_sizes(sizes, tuning)
    aside = path.with_name(f".{path.name}.part")
    figure.savefig(aside, format="png", dpi=120)
    aside.replace(path)
    return True


def _draw_times(axes: Any, tuning: Tuning) -> None:
    """Draw the time of a search by the recall that it reaches, a line each setup."""
    for number, curve in enumerate(tuning.curves):
        recalls = [point.ann_recall_at_10 for point in curve.points]
        times = [point.search_p50_us for point in curve.points]
        width = 3.0 if curve is tuning.chosen else 1.0
        look = {"color": f"C{number}", "marker": ".", "linewidth": width}
        axes.plot(recalls, times, label=_label(curve), **look)
    axes.axvline(tuning.required_ann_recall_at_10, color="grey", linestyle=":")
    axes.set_xlabel("ann_recall@10")
    axes.set_ylabel("search p50, microseconds")
    axes.set_title(f"{tuning.sample_items:,} items; bold: chosen")
    axes.legend(fontsize="small")


def _draw_sizes(axes: Any, tuning: Tuning) -> None:
    """Draw the size of the graph by the time of a search at the recall, a point each setup."""
    required = tuning.required_ann_recall_at_10
    reaching = 0
    for number, curve in enumerate(tuning.curves):
        place = (curve.p50_us_at(required), curve.graph_bytes_per_item)
        if place[0] == float("inf"):
            continue
        reaching += 1
        axes.scatter(*place, s=120 if curve is tuning.chosen else 30, color=f"C{number}")
        axes.annotate(_label(curve), place, xytext=(6, 6), textcoords="offset points", fontsize=8)
    axes.margins(0.2)
    axes.set_xlabel(f"search p50 at ann_recall@10 of {required}, microseconds")
    axes.set_ylabel("graph.faiss, bytes an item")
    axes.set_title(f"{reaching} of {len(tuning.curves)} setups reach it; large: chosen")


def _label(curve: Curve) -> str:
    return f"m {curve.m}, {curve.code_dim} dimensions"


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
