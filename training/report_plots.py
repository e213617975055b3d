"""The pictures of a comparison, as PNG."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from training.results import PLOTTED, System, sweeps

SYSTEMS_FILE = "systems.png"
RECALL_LATENCY_FILE = "recall_latency.png"
EF_SEARCH_FILE = "ef_search.png"
DIMS_FILE = "dims.png"
DPI = 120
_MARKERS = "osD^v<>PX"  # nine, and ten colors: no two of ninety systems look alike
Point = tuple[float, float]


def draw_plots(out: Path, systems: Mapping[str, System]) -> dict[str, str]:
    """Draw what there is to see; return file -> caption of each picture.

    What an earlier comparison left in the folder, and this one does not draw, is removed.
    """
    figures = {
        SYSTEMS_FILE: (systems_figure(systems), f"{PLOTTED} of each system"),
        RECALL_LATENCY_FILE: (latency_figure(systems), f"{PLOTTED} by the time of a query"),
        EF_SEARCH_FILE: (ef_search_figure(systems), f"{PLOTTED} and ann_recall@10 by ef_search"),
        DIMS_FILE: (dims_figure(systems), f"{PLOTTED} by dimensions"),
    }
    for name, (figure, _) in figures.items():
        if figure is None:
            (out / name).unlink(missing_ok=True)
        else:
            figure.savefig(out / name, dpi=DPI)
    return {name: caption for name, (figure, caption) in figures.items() if figure is not None}


def systems_figure(systems: Mapping[str, System]) -> Any:
    """Return a bar of recall@10 with its interval for each system; None without any."""
    found = {n: s.intervals[PLOTTED] for n, s in systems.items() if PLOTTED in s.intervals}
    if not found:
        return None
    figure, axes = _figure(7, 1.2 + 0.45 * len(found))
    # A mean may lie outside of its interval by rounding.
    errors = [
        [max(0.0, f.mean - f.low) for f in found.values()],
        [max(0.0, f.high - f.mean) for f in found.values()],
    ]
    means = [f.mean for f in found.values()]
    axes.barh(list(found), means, xerr=errors, capsize=3, color="tab:blue")
    axes.invert_yaxis()
    axes.set_xlabel(f"{PLOTTED} with 95 % interval")
    return figure


def latency_figure(systems: Mapping[str, System]) -> Any:
    """Return recall@10 over what a query takes in all; None with less than two systems."""
    points = {n: (s.query_ms, s.recall) for n, s in systems.items() if s.recall is not None}
    if len(points) < 2:
        return None
    figure, axes = _figure(8, max(4.0, 0.24 * len(points) + 1))
    for (name, (spent_ms, recall)), marker in zip(points.items(), cycle(_MARKERS), strict=False):
        axes.plot([spent_ms], [recall], marker, label=name)
    axes.set(xscale="log", ylabel=PLOTTED)
    axes.set_xlabel("p50 of a query alone, in all, ms: encode, search, fuse, rerank")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    return figure


def ef_search_figure(systems: Mapping[str, System]) -> Any:
    """Return recall@10 and ann_recall@10 over ef_search; None with less than two points."""
    found = sweeps(systems, "ef_search")
    recall = {name: _points({e: s.recall for e, s in by.items()}) for name, by in found.items()}
    kept = {name: _points({e: s.ann_recall for e, s in by.items()}) for name, by in found.items()}
    return _curves({PLOTTED: recall, "ann_recall@10": kept}, "ef_search")


def dims_figure(systems: Mapping[str, System]) -> Any:
    """Return recall@10 over the dimensions compared; None with less than two points."""
    found = sweeps(systems, "dim")
    recall = {name: _points({d: s.recall for d, s in by.items()}) for name, by in found.items()}
    return _curves({PLOTTED: recall}, "dimensions")


def _points(values: Mapping[float, float | None]) -> list[Point]:
    return [(at, value) for at, value in values.items() if value is not None]


def _curves(by_measure: Mapping[str, Mapping[str, Sequence[Point]]], label: str) -> Any:
    """Return measures one above the other over what was swept; None with less than two points.

    Args:
        by_measure: measure -> name of the sweep -> its points.
        label: what was swept.
    """
    if all(len(points) < 2 for curves in by_measure.values() for points in curves.values()):
        return None
    figure, axes = _figure(7, 1 + 2.6 * len(by_measure), rows=len(by_measure))
    for panel, (measure, curves) in zip(axes, by_measure.items(), strict=True):
        for name, points in curves.items():
            panel.plot([at for at, _ in points], [value for _, value in points], "o-", label=name)
        panel.set(ylabel=measure)
        panel.set_xscale("log", base=2)
        panel.grid(alpha=0.3)
    places = sorted({at for curves in by_measure.values() for p in curves.values() for at, _ in p})
    axes[-1].set_xticks(places, [f"{at:g}" for at in places])
    axes[-1].set_xlabel(label)
    axes[0].legend(fontsize="small")
    return figure


def _figure(width: float, height: float, rows: int = 0) -> tuple[Any, Any]:
    """Return a figure of so many inches that is drawn without a screen, and its axes.

    Args:
        width: inches.
        height: inches.
        rows: axes one above the other over one x, as a list; 0: a single one, itself.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(max(1, rows), sharex=True, squeeze=False)[:, 0]
    return figure, (list(axes) if rows else axes[0])
