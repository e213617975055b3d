"""The report of a comparison: Markdown with a plot."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.cases import CASES_FILE
from training.report_plots import draw_plots
from training.results import PLOTTED, System
from training.segments import SEGMENT_QUERIES_MIN
from training.significance import Interval

REPORT_FILE = "report.md"


def write_report(out: Path, results: Mapping[str, Any], systems: Mapping[str, System]) -> None:
    """Write report.md and its pictures."""
    pictures = [f"![{caption}]({name})" for name, caption in draw_plots(out, systems).items()]
    lines = _lines(results, systems, pictures)
    (out / REPORT_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")


def add_curves(out: Path, curves: Mapping[str, Path]) -> None:
    """Show the curves of training runs at the end of report.md.

    Args:
        out: folder of the report.
        curves: name of a run -> its picture, which is copied; a run without one is left out.
    """
    lines: list[str] = []
    for name, picture in curves.items():
        if picture.is_file():
            shutil.copyfile(picture, out / f"curves-{name}.png")
            lines += ["", f"![Loss and dev of {name}](curves-{name}.png)"]
    if lines:
        with (out / REPORT_FILE).open("a", encoding="utf-8") as file:
            file.write("\n".join(["## Training", *lines]) + "\n")


def _lines(
    results: Mapping[str, Any], systems: Mapping[str, System], pictures: Sequence[str]
) -> list[str]:
    baseline = results["baseline"]
    masked = ", words of the title masked" if results["masked"] else ""
    return [
        f"# {results['data']}, {results['split']}",
        "",
        f"{results['queries']} queries{masked}, {results['items']} items. Means with "
        "95 % bootstrap intervals, products resampled; an asterisk is p < 0.05 against "
        f"{baseline} (paired randomization test, not corrected for the number of comparisons). "
        "An empty cell: the system finds fewer. "
        "p50 is what a system's own part takes for one query alone here, measured on a few; a "
        "search is on one thread and for 100 hits. In all adds what it is made of, each once.",
        "",
        *_systems_table(results["measures"], systems),
        "",
        f"[{CASES_FILE}]({CASES_FILE}): queries won and lost, and what first results lack.",
        "",
        *(line for picture in pictures for line in (picture, "")),
        *_ratio_lines(systems, baseline),
        "",
        *_segment_lines(results, systems),
    ]


def _systems_table(measures: Sequence[str], systems: Mapping[str, System]) -> list[str]:
    rows = [f"| system | {' | '.join(measures)} | p50 | in all | |"]
    rows.append("|---" * (len(measures) + 4) + "|")
    for name, system in systems.items():
        cells = [cell(system.intervals.get(m), system.p_values.get(m)) for m in measures]
        cells.append(", ".join(f"{what} {duration(ms)}" for what, ms in system.p50_ms.items()))
        cells.append(duration(system.query_ms))
        rows.append(f"| {name} | {' | '.join(cells)} | {escaped(system.note)} |")
    return rows


def cell(found: Interval | None, p_value: float | None) -> str:
    """Return a mean, its interval, and whether the difference is significant; "" for None.

    >>> cell(Interval(0.5, 0.41, 0.59), 0.01)
    '0.500* (0.410-0.590)'
    """
    if found is None:
        return ""
    mark = "*" if p_value is not None and p_value < 0.05 else ""
    return f"{found.mean:.3f}{mark} ({found.low:.3f}-{found.high:.3f})"


def duration(milliseconds: float) -> str:
    """Return a duration for people.

    >>> duration(0.0712), duration(48.03), duration(1234.5)
    ('0.0712 ms', '48 ms', '1234 ms')
    """
    return f"{milliseconds:.{3 if milliseconds < 1000 else 4}g} ms"


def escaped(text: str) -> str:
    r"""Return a text that ends no cell of a Markdown table.

    >>> print(escaped("Home | Kitchen"))
    Home \| Kitchen
    """
    return " ".join(text.split()).replace("|", r"\|")


def _ratio_lines(systems: Mapping[str, System], baseline: str) -> list[str]:
    found = {n: s.intervals[PLOTTED].mean for n, s in systems.items() if PLOTTED in s.intervals}
    if baseline not in found or len(found) < 2:
        return []
    lines = [f"{PLOTTED} against {baseline}:", ""]
    base = found.pop(baseline)
    for name, mean in found.items():
        ratio = f"{mean / base:.2f}x" if base else "not defined"
        lines.append(f"- {name}: {ratio}, p {systems[name].p_values[PLOTTED]:.4f}")
    return lines


def _segment_lines(results: Mapping[str, Any], systems: Mapping[str, System]) -> list[str]:
    """Return a table by each kind of segment, or a line where all queries are in one segment."""
    lines: list[str] = []
    shown = {name: system.segments for name, system in systems.items() if system.segments}
    for kind, segments in next(iter(shown.values()), {}).items():
        lines += [f"## {PLOTTED} by {kind}", ""]
        if [queries for queries, _ in segments.values()] == [results["queries"]]:
            lines += [f"All {results['queries']} queries: {escaped(next(iter(segments)))}.", ""]
        elif segments:
            lines += [*_segment_table(kind, shown), ""]
        if small := results["too_small"].get(kind):
            lines.append(
                f"Not shown: {small['queries']} queries in {small['segments']} segments of fewer "
                f"than {SEGMENT_QUERIES_MIN}."
            )
            lines.append("")
    return lines


def _segment_table(
    kind: str, shown: Mapping[str, Mapping[str, Mapping[str, tuple[int, float]]]]
) -> list[str]:
    lines = [f"| {kind} | queries | {' | '.join(shown)} |", f"|---|---|{'---|' * len(shown)}"]
    for segment, (queries, _) in next(iter(shown.values()))[kind].items():
        found = [f"{segments[kind][segment][1]:.3f}" for segments in shown.values()]
        lines.append(f"| {escaped(segment)} | {queries} | {' | '.join(found)} |")
    return lines
