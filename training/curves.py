"""Loss and the measure of dev while a run goes on: in the terminal, and as a picture."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from training.checkpoints import Progress

CURVES_FILE = "curves.png"
WIDTH = 60
SMOOTHED_STEPS = 10
_BARS = "▁▂▃▄▅▆▇█"


class Screen:
    """Shows a run: redrawn in place on a terminal, a line at each evaluation elsewhere."""

    def __init__(self, name: str, num_steps: int, measure: str, console: Console) -> None:
        self._name = name
        self._measure = measure
        self._num_steps = num_steps
        self._console = console
        self._live: Live | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Hold the terminal while a run goes on."""
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, refresh_per_second=2, transient=False) as self._live:
            yield
        self._live = None

    def update(self, progress: Progress) -> None:
        """Show a step."""
        if self._live is not None:
            self._live.update(self._drawing(progress))

    def evaluated(self, progress: Progress) -> None:
        """Show an evaluation."""
        if self._live is not None:
            self.update(progress)
            return
        step, found = progress.evaluations[-1]
        loss = f"loss {progress.losses[-1][1]:.4f}  " if progress.losses else ""
        self._console.print(
            f"{self._name}  step {step}/{self._num_steps}  {loss}dev {self._measure} "
            f"{found:.4f}  best {progress.best:.4f}  {progress.seconds:.0f} s",
            highlight=False,
        )

    def _drawing(self, progress: Progress) -> Group:
        head = Text(f"{self._name}  step {progress.step}/{self._num_steps}")
        table = Table.grid(padding=(0, 2))
        dev = (f"dev {self._measure}", progress.evaluations)
        for label, points in (("loss", progress.losses), dev):
            values = [value for _, value in points]
            last = f"{values[-1]:.4f}" if values else ""
            table.add_row(label, sparkline(values, WIDTH), last)
        return Group(head, table)


def sparkline(values: Sequence[float], width: int) -> str:
    """Return values as bars, the mean of neighbours where there are more than fit.

    >>> sparkline([1.0, 2.0, 3.0], 3)
    '▁▅█'
    """
    if not values:
        return ""
    num_bars = min(width, len(values))
    edges = [len(values) * bar // num_bars for bar in range(num_bars + 1)]
    means = [sum(values[start:end]) / (end - start) for start, end in pairwise(edges)]
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    return "".join(_BARS[round((mean - low) / span * (len(_BARS) - 1))] for mean in means)


def draw_curves(progress: Progress, path: Path, title: str, measure: str) -> None:
    """Write the curves as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    left = figure.add_subplot()
    steps = [step for step, _ in progress.losses]
    values = [loss for _, loss in progress.losses]
    left.plot(steps, values, color="0.75", linewidth=0.8)
    left.plot(steps, smooth(values), color="tab:blue", label="loss")
    left.set(xlabel="optimizer step", ylabel="loss", title=title)
    right = left.twinx()
    right.plot(
        [step for step, _ in progress.evaluations],
        [found for _, found in progress.evaluations],
        "o-",
        color="tab:orange",
        label=f"dev {measure}",
    )
    right.set_ylabel(f"dev {measure}")
    figure.legend(loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=120)


def smooth(values: Sequence[float]) -> list[float]:
    """Return the mean of each value and those just before it.

    >>> smooth([1.0, 3.0])
    [1.0, 2.0]
    """
    starts = (max(0, at - SMOOTHED_STEPS + 1) for at in range(len(values)))
    return [sum(values[s : e + 1]) / (e + 1 - s) for e, s in enumerate(starts)]
