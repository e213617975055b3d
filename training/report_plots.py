"""The pictures of a comparison, as PNG."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.results import PLOTTED, System

SYSTEMS_FILE = "systems.png"
DPI = 120


def draw_systems(path: Path, systems: Mapping[str, System]) -> None:
    """Draw a bar of recall@10 with its interval for each system."""
    found = {n: s.intervals[PLOTTED] for n, s in systems.items() if PLOTTED in s.intervals}
    figure = _figure(7, 1.2 + 0.45 * len(found))
    axes = figure.add_subplot()
    # A mean may lie outside of its interval by rounding.
    errors = [
        [max(0.0, f.mean - f.low) for f in found.values()],
        [max(0.0, f.high - f.mean) for f in found.values()],
    ]
    means = [f.mean for f in found.values()]
    axes.barh(list(found), means, xerr=errors, capsize=3, color="tab:blue")
    axes.invert_yaxis()
    axes.set_xlabel(f"{PLOTTED} with 95 % interval")
    figure.savefig(path, dpi=DPI)


def _figure(width: float, height: float) -> Any:
    """Return an empty figure of so many inches that is drawn without a screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
