"""What people see: tables of results, processes, generations and builds."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.status import HomeStatus, ProcessStatus
from protos.vitrine.v1 import search_pb2, types_pb2

WIDTH_MIN = 100
TITLE_CHARS_MAX = 80
ATTRIBUTES_SHOWN = 4
# Shown first where an item has them; others follow in the order of their names.
ATTRIBUTES_FIRST = ("brand", "category", "color", "price", "rating")


def stdout() -> Console:
    """Return the console for results; wide enough for a table when it is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=max(160, WIDTH_MIN))


def results_table(response: search_pb2.SearchResponse, title: str = "") -> Table:
    """Return the results, best first, with a few of each item's attributes."""
    table = Table(title=escape(title) or None, title_justify="left", pad_edge=False)
    table.add_column("#", justify="right")
    table.add_column("score", justify="right")
    table.add_column("item_id", no_wrap=True)
    table.add_column("title", overflow="fold")
    table.add_column("attributes", overflow="fold", style="dim")
    for rank, result in enumerate(response.results, start=1):
        table.add_row(
            str(rank),
            f"{result.score:.4f}",
            escape(result.item_id),
            escape(shortened(result.item.title, TITLE_CHARS_MAX)),
            escape(_attributes(result.item.attributes)),
        )
    return table


def truth_lines(response: search_pb2.SearchResponse) -> Sequence[str]:
    """Return what the answer says of itself: times, coverage, what was degraded."""
    timing, coverage = response.timing, response.coverage
    lines = [
        f"{_counted(len(response.results), 'result')} in {_ms(timing.total_us)} "
        f"(embed {_ms(timing.embed_us)}, search {_ms(timing.search_us)}, "
        f"merge {_ms(timing.merge_us)}, attach {_ms(timing.attach_us)})",
        f"searched {coverage.items_searched:,} of {coverage.items_known:,} items on "
        f"{_answering(coverage)} of {len(coverage.shards)} shards, "
        f"generation {response.generation}, encoder {response.encoder_id}",
    ]
    lines += [
        f"shard {shard.shard}: {_state_name(shard.state)} {shard.detail}".rstrip()
        for shard in coverage.shards
        if shard.state != types_pb2.SHARD_STATE_OK
    ]
    if response.degraded:
        lines.append("degraded: " + ", ".join(_degraded_name(each) for each in response.degraded))
    if response.query_truncated:
        lines.append("the text was cut at the encoder's length limit")
    return lines


def profile_table(profile: search_pb2.SearchProfile) -> Table:
    """Return how each shard found its hits."""
    cached = "embedding from cache" if profile.embedding_cached else "embedding computed"
    table = Table(
        title=f"profile: {cached}, {profile.hits_merged} hits merged, "
        f"{profile.items_matched:,} items match",
        title_justify="left",
        pad_edge=False,
    )
    for column in ("shard", "path", "ef_search", "selectivity", "queue", "search", "queries"):
        table.add_column(column, justify="left" if column == "path" else "right")
    for shard in profile.shards:
        table.add_row(
            str(shard.shard),
            shard.path,
            str(shard.ef_search),
            f"{shard.selectivity:.4f}",
            _ms(shard.queue_us),
            _ms(shard.search_us),
            str(shard.queries_in_call),
        )
    return table


def status_table(status: HomeStatus) -> Table:
    """Return every process, one a row."""
    promoted = f"generation {status.generation}" if status.generation else "none"
    table = Table(
        title=escape(f"{status.home} (promoted: {promoted})"),
        title_justify="left",
        caption_justify="left",
        pad_edge=False,
    )
    for column in ("process", "pid", "address", "http", "state", "generation", "memory"):
        right = column in ("pid", "generation", "memory")
        table.add_column(column, justify="right" if right else "left", no_wrap=True)
    for process in status.processes:
        table.add_row(
            process.name,
            str(process.pid),
            process.address,
            process.http_address,
            _process_state(process),
            str(process.generation or ""),
            size(process.resident_bytes) if process.alive else "",
        )
    blocked = [f"{each.name}: {each.blocked_on}" for each in status.processes if each.blocked_on]
    table.caption = escape("\n".join(blocked)) or None
    return table


def key_value_table(values: Mapping[str, Any], title: str = "") -> Table:
    """Return a mapping as two columns; nested mappings are flattened with dots."""
    table = Table(title=escape(title) or None, title_justify="left", show_header=False, box=None)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in flattened(values):
        table.add_row(escape(name), escape(str(value)))
    return table


def rows_table(rows: Sequence[Mapping[str, Any]], title: str = "") -> Table:
    """Return mappings as rows, columns in the order in which they first appear."""
    table = Table(title=escape(title) or None, title_justify="left", pad_edge=False)
    flat = [dict(flattened(row)) for row in rows]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    for column in columns:
        table.add_column(escape(column), overflow="fold")
    for row in flat:
        table.add_row(*(escape(str(row.get(column, ""))) for column in columns))
    return table


def flattened(values: Mapping[str, Any], prefix: str = "") -> Sequence[tuple[str, Any]]:
    """Return the leaves of nested mappings with dotted names.

    >>> flattened({"gate": {"probes": 256}, "items": 3})
    [('gate.probes', 256), ('items', 3)]
    """
    leaves: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            leaves += flattened(value, f"{prefix}{name}.")
        else:
            leaves.append((f"{prefix}{name}", value))
    return leaves


def size(num_bytes: float) -> str:
    """Return a number of bytes for people.

    >>> size(1536), size(3 * 1024**3)
    ('1.5 KiB', '3.0 GiB')
    """
    for unit in ("B", "KiB", "MiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} GiB"


def shortened(text: str, chars_max: int) -> str:
    """Return a text cut to a number of characters.

    >>> shortened("linen summer dress", 10)
    'linen s...'
    """
    return text if len(text) <= chars_max else f"{text[: chars_max - 3]}..."


def _attributes(attributes: Mapping[str, types_pb2.AttributeValue]) -> str:
    first = [name for name in ATTRIBUTES_FIRST if name in attributes]
    others = sorted(set(attributes) - set(first))
    shown = (first + others)[:ATTRIBUTES_SHOWN]
    return ", ".join(f"{name} {_attribute(attributes[name])}" for name in shown)


def _attribute(value: types_pb2.AttributeValue) -> str:
    match value.WhichOneof("kind"):
        case "keyword":
            return value.keyword
        case "keywords":
            return "/".join(value.keywords.values)
        case "number":
            return f"{value.number:g}"
        case "flag":
            return "yes" if value.flag else "no"
        case "time":
            return value.time.ToJsonString()
    return ""


def _process_state(process: ProcessStatus) -> str:
    if not process.alive:
        return "[red]ended[/red]"
    return "[green]serving[/green]" if process.serving else "[yellow]not serving[/yellow]"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _ms(microseconds: int) -> str:
    return f"{microseconds / 1000:.1f} ms"


def _answering(coverage: types_pb2.Coverage) -> int:
    return sum(shard.state == types_pb2.SHARD_STATE_OK for shard in coverage.shards)


def _state_name(state: types_pb2.ShardState) -> str:
    return types_pb2.ShardState.Name(state).removeprefix("SHARD_STATE_").lower()


def _degraded_name(reason: types_pb2.DegradedReason) -> str:
    return types_pb2.DegradedReason.Name(reason).removeprefix("DEGRADED_REASON_").lower()
