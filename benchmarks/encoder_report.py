"""The encoder benchmark's results: a table for people, JSON, a plot."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.encoder_targets import targets
from benchmarks.report import write_result

COLUMNS = (
    "system", "threads", "MB", "cosine", "recall@10", "ndcg@10",
    "p50 ms, 8 tokens", "p50 ms, 128 tokens", "texts/s, 32 x 32 tokens",
)  # fmt: skip
TARGET_COLUMNS = ("figure", "target", "measured", "reached")
LINE_CHARS = 250


def write(
    name: str,
    work: Path,
    entries: Sequence[Any],
    shipped: dict[str, Any],
    results: Path,
    images: Path,
) -> None:
    """Join what the phases found; print it, and write JSON, Markdown and the plot.

    Args:
        name: of the result.
        work: where the phases keep what they found.
        entries: the systems.
        shipped: encoder.json of the bundle that is served.
        results: folder for JSON.
        images: folder for the plot.
    """
    figures = joined(work, entries)
    reached = targets(figures, shipped)
    figures["targets"] = [asdict(each) | {"reached": each.reached} for each in reached]
    rows = [_row(figures, key) for key in figures["systems"]]
    goals = [each.cells() for each in reached]
    print_table(COLUMNS, rows)
    print_table(TARGET_COLUMNS, goals)
    print(f"written to {write_result(f'encoder-{name}', figures, results)}")
    tables = markdown(COLUMNS, rows) + "\n" + markdown(TARGET_COLUMNS, goals)
    (work / "table.md").write_text(tables)
    print(f"Markdown in {work / 'table.md'}")
    if "grid" in figures:
        print(_plot(figures, images / f"encoder-{name}.png"))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under their columns; into a file, which has no width, without breaking lines."""
    table = Table(*columns)
    for row in rows:
        table.add_row(*map(escape, row))  # "[bench]" is no markup
    console = Console()
    if not console.is_terminal:
        console = Console(width=LINE_CHARS)
    console.print(table)


def joined(work: Path, entries: Sequence[Any]) -> dict[str, Any]:
    """Return all phases' figures; each keeps the machine that it ran on."""
    figures: dict[str, Any] = {"phases": {}, "systems": {}}
    for phase in ("quality", "grid", "targets"):
        if not (work / f"{phase}.json").exists():
            continue
        found = json.loads((work / f"{phase}.json").read_text())
        figures["phases"][phase] = {"machine": found["machine"], "judgements": found["judgements"]}
        figures |= {
            key: value for key, value in found.items()
            if key not in ("machine", "judgements", "absent", "quality", "about")
        }  # fmt: skip
        for entry in entries:
            of_entry = figures["systems"].setdefault(entry.key, _named(entry))
            if entry.key in found["absent"]:
                of_entry["absent"] = found["absent"][entry.key]
            of_entry |= found.get("quality", {}).get(entry.key, {})
            of_entry |= found.get("about", {}).get(entry.key, {})
    return figures


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows as a Markdown table.

    >>> markdown(["system", "MB"], [["a", "1"]]).splitlines()
    ['| system | MB |', '|---|---|', '| a | 1 |']
    """
    head = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    return "\n".join(head + [f"| {' | '.join(row)} |" for row in rows]) + "\n"


def _named(entry: Any) -> dict[str, Any]:
    weights = entry.model.with_suffix(".bin")
    paths = [entry.model] + ([weights] if entry.model.suffix == ".xml" else [])
    there = [path.stat().st_size for path in paths if path.exists()]
    return {"label": entry.label, "file_bytes": sum(there)}


def _row(figures: dict[str, Any], key: str) -> list[str]:
    of_system = figures["systems"][key]
    label = of_system["label"]
    if "absent" in of_system:
        return [label, of_system["absent"], *[""] * (len(COLUMNS) - 2)]
    quality = figures["systems"]["own"] if key == "own_grpc" else of_system
    cells = {(cell["tokens"], cell["batch"]): cell for cell in figures.get("grid", [])
             if cell["system"] == key}  # fmt: skip

    def of_cell(tokens: int, batch: int, field: str, scale: float) -> str:
        cell = cells.get((tokens, batch))
        return "" if cell is None else f"{cell[field] / scale:,.2f}"

    return [
        label,
        str(of_system.get("threads", "")),
        f"{of_system['file_bytes'] / 1e6:,.1f}",
        f"{quality['cosine_mean']:.4f}" if "cosine_mean" in quality else "",
        _with_loss(quality, "recall_at_10"),
        _with_loss(quality, "ndcg_at_10"),
        of_cell(8, 1, "p50_us", 1e3),
        of_cell(128, 1, "p50_us", 1e3),
        of_cell(32, 32, "texts_a_second", 1),
    ]


def _with_loss(quality: dict[str, Any], measure: str) -> str:
    found = quality.get(f"{measure}_over_fp32_items")
    if found is None:
        return ""
    return f"{found:.4f} ({0 - quality[f'{measure}_over_fp32_items_lost_percent']:+.2f} %)"


def _plot(figures: dict[str, Any], path: Path) -> str:
    """Draw p50 over length at batch 1, and say where."""
    try:
        from matplotlib import pyplot as plt
    except ImportError:
        return "no plot: pip install 'vitrine[bench]'"
    figure, axis = plt.subplots(figsize=(8, 5))
    for key, of_system in figures["systems"].items():
        cells = sorted(
            (cell["tokens"], cell["p50_us"] / 1e3) for cell in figures["grid"]
            if cell["system"] == key and cell["batch"] == 1
        )  # fmt: skip
        if cells:
            cosine = figures["systems"]["own" if key == "own_grpc" else key].get("cosine_mean")
            label = of_system["label"] + (f" (cosine {cosine:.3f})" if cosine is not None else "")
            axis.plot(*zip(*cells, strict=True), marker="o", label=label,
                      linewidth=3 if key.startswith("own") else 1)  # fmt: skip
    axis.set(xscale="log", yscale="log", xlabel="tokens", ylabel="p50 of one text, ms")
    axis.set_xticks(sorted({cell["tokens"] for cell in figures["grid"]}))
    axis.get_xaxis().set_major_formatter("{x:.0f}")
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
    return f"plot in {path}"
