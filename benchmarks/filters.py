"""Filtered search of some shards: recall and time by selectivity, on each path and the planner's.

`python -m benchmarks.filters --work DIR --queries FILE.npy --cache DIR`

Filters are on a random number, and on the catalogue's own attributes, whose values go with what
vectors mean. Folders are those of `benchmarks.growth`, whose graphs are used. All paths answer the
same queries, some of each in turns, on one thread; a filter's rows are known beforehand, as they
are for a filter that was asked before. Shards are searched one after the other: the slowest is what
a search takes where each has a core.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import orjson
import pyarrow as pa
import typer
from numpy.typing import NDArray

from benchmarks.growth import PARAMETERS, drawn_rows, piece_folder, pieces
from benchmarks.index import cached_segment
from benchmarks.report import machine, percentile, write_result
from index_service.build.columns import attributes_of, columns
from index_service.build.work_folder import WorkFolder
from index_service.build.workers import single_threaded
from index_service.filter import Bound, Equals, Exists, Filter, Range
from index_service.generation.manifest import AttributeKind
from index_service.planner import Effort, PlanLimits
from index_service.query import Hits, Query
from index_service.recall import RECALL_K, merge_tables, share_found
from index_service.scoring import Rows
from index_service.segment import Segment
from index_service.shard import search_segment

SELECTIVITIES = (0.9, 0.7, 0.5, 0.3, 0.1, 0.01, 0.001)
RANDOM = "random"
TURN_QUERIES = 20
_ALWAYS_EXACT = PlanLimits(rows_a_candidate=inf)
PATHS = {
    "planner": PlanLimits(),
    "exact": _ALWAYS_EXACT,
    "graph, ef_search as it is": PlanLimits(rows_a_candidate=0, graph_selectivity_min=0.0),
}


@dataclass(frozen=True, slots=True)
class Condition:
    """A filter, and what it is on."""

    name: str
    tree: Filter | None


def main(
    work: Annotated[Path, typer.Option(help="Folder with items, vectors.f16 and embed.json.")],
    queries: Annotated[Path, typer.Option(help="Query vectors, .npy, float32.")],
    cache: Annotated[Path, typer.Option(help="Folder that graphs are kept in.")],
    ef_search: Annotated[int, typer.Option(help="ef_search without a filter.")],
    items: Annotated[int, typer.Option(help="Distinct vectors, all shards'; 0 for all.")] = 0,
    shards: Annotated[int, typer.Option(help="Shards that they are cut into.")] = 1,
    rescored: Annotated[int, typer.Option(help="Candidates scored with full vectors.")] = 24,
    searches: Annotated[int, typer.Option(help="Queries of each path.")] = 200,
    name: Annotated[str, typer.Option(help="Name of the result file.")] = "filters",
) -> None:
    """Measure every condition on every path."""
    folder = WorkFolder.open(work)
    drawn = drawn_rows(folder.vectors())[: items or None]
    asked = np.load(queries)[:searches]
    with single_threaded():
        cut = [segment_of(folder, piece, cache) for piece in pieces(drawn, shards)]
        segments = [segment for segment, _, _ in cut]
        effort = Effort(ef_search, rescored)
        conditions = [Condition("none", None), *on_random(), *on_real(*cut[0])]
        # Files are mapped: the first searches wait for their pages.
        for query in asked:
            search(segments, Query(embedding=query, fetch_k=RECALL_K), effort, PlanLimits())
        figures = [measure(segments, condition, asked, effort) for condition in conditions]
    result = {
        **machine(),
        "items": len(drawn),
        "shards": shards,
        "queries": len(asked),
        "ef_search": ef_search,
        "rescored": rescored,
        "conditions": figures,
    }
    typer.echo(orjson.dumps(figures, option=orjson.OPT_INDENT_2).decode())
    typer.echo(write_result(name, result))


def segment_of(
    work: WorkFolder, rows: Rows, cache: Path
) -> tuple[Segment, pa.Table, Mapping[str, AttributeKind]]:
    """Return some rows as a shard, with their attributes and these's kinds."""
    table, schema = attributes(work, rows)
    halves = np.ascontiguousarray(work.vectors()[rows])
    segment, _, _ = cached_segment(halves, table, PARAMETERS, piece_folder(cache, rows))
    return segment, table, schema


def attributes(work: WorkFolder, rows: Rows) -> tuple[pa.Table, Mapping[str, AttributeKind]]:
    """Return the columns of some rows, and a random number beside them."""
    items: list[tuple[str, bytes]] = []
    for batch in work.batches():
        first, after = np.searchsorted(
            rows, [batch.first_row, batch.first_row + len(batch.item_ids)]
        )
        places = pa.array(rows[first:after] - batch.first_row)
        own = (batch.item_ids.take(places).to_pylist(), batch.items.take(places).to_pylist())
        items += zip(*own, strict=True)
    schema = {name: kind for item in items for name, kind, _ in attributes_of(*item)}
    table = pa.Table.from_batches([columns(items, schema)])
    numbers = np.random.default_rng(1).random(len(rows))
    return table.append_column(RANDOM, pa.array(numbers)), schema


def on_random() -> list[Condition]:
    """Return a condition on the random number for each selectivity."""
    return [
        Condition(RANDOM, Range(RANDOM, None, Bound(share, inclusive=False)))
        for share in SELECTIVITIES
    ]


def on_real(
    segment: Segment, table: pa.Table, schema: Mapping[str, AttributeKind]
) -> list[Condition]:
    """Return for each selectivity the condition on the catalogue's own that comes nearest."""
    known = [
        (Condition(each.attribute, each), share_of(segment, each)) for each in trees(table, schema)
    ]
    chosen: dict[Filter, Condition] = {}
    for wanted in SELECTIVITIES:
        nearest = min(known, key=lambda pair: abs(np.log(max(pair[1], 1e-9) / wanted)))[0]
        assert nearest.tree is not None
        chosen.setdefault(nearest.tree, nearest)
    return list(chosen.values())


def trees(
    table: pa.Table, schema: Mapping[str, AttributeKind]
) -> Sequence[Equals | Exists | Range]:
    """Return conditions that callers might set: a value, a bound, presence."""
    found: list[Equals | Exists | Range] = []
    for name, kind in schema.items():
        column = table.column(name).drop_null()
        found += [Exists(name, present) for present in (True, False)]
        if kind in (AttributeKind.KEYWORD, AttributeKind.KEYWORD_LIST):
            values = column if kind is AttributeKind.KEYWORD else column.combine_chunks().flatten()
            counts = sorted(values.value_counts().to_pylist(), key=lambda each: -each["counts"])
            found += [Equals(name, each["values"]) for each in counts[:500]]
        elif kind is AttributeKind.NUMBER:
            bounds = np.quantile(column.to_numpy(), np.linspace(0.1, 0.9, 9))
            found += [Range(name, None, Bound(float(bound), inclusive=True)) for bound in bounds]
    return found


def share_of(segment: Segment, tree: Filter) -> float:
    """Return the share of rows that match."""
    return float(segment.matches(tree, lambda: None).count / segment.items)


def measure(
    segments: Sequence[Segment],
    condition: Condition,
    asked: NDArray[np.float32],
    effort: Effort,
) -> dict[str, Any]:
    """Return recall and time of one condition on every path."""
    exact = exact_of(segments, condition, asked)
    found: dict[str, list[list[Hits]]] = {name: [] for name in PATHS}
    for start in range(0, len(asked), TURN_QUERIES):
        for name, limits in PATHS.items():
            for query in asked[start : start + TURN_QUERIES]:
                wanted = Query(embedding=query, fetch_k=RECALL_K, filter=condition.tree)
                found[name].append(search(segments, wanted, effort, limits))
    matched = sum(hits.items_matched for hits in found["planner"][0])
    return {
        "on": condition.name,
        "selectivity": round(matched / sum(segment.items for segment in segments), 5),
        "paths": {name: figures_of(hits, exact) for name, hits in found.items()},
    }


def search(
    segments: Sequence[Segment], query: Query, effort: Effort, limits: PlanLimits
) -> list[Hits]:
    """Return what each shard finds."""
    return [
        search_segment(segment, [query], effort, limits, lambda: None)[0] for segment in segments
    ]


def exact_of(
    segments: Sequence[Segment], condition: Condition, asked: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the scores of the exact best, shape (queries, 10), -inf where there are fewer."""
    queries = [
        Query(embedding=query, fetch_k=RECALL_K, filter=condition.tree, exact=True)
        for query in asked
    ]
    return merged([search(segments, query, Effort(1), PlanLimits()) for query in queries])


def figures_of(found: Sequence[Sequence[Hits]], exact: NDArray[np.float32]) -> dict[str, Any]:
    """Return one path's row of the result."""
    times_us = [[time_us(hits) for hits in of_shards] for of_shards in found]
    slowest = [max(of_shards) for of_shards in times_us]
    return {
        "path": ", ".join(sorted({str(hits.profile.path) for hits in found[0]})),
        "ef_search": max(hits.profile.ef_search for hits in found[0]),
        "ann_recall_at_10": round(share_found(exact, merged(found)), 4),
        "p50_us": percentile(slowest, 0.5),
        "p95_us": percentile(slowest, 0.95),
        "all_shards_p50_us": percentile([sum(of_shards) for of_shards in times_us], 0.5),
    }


def time_us(hits: Hits) -> int:
    """Return how long one shard took."""
    profile = hits.profile
    return profile.filter_us + profile.candidates_us + profile.rescore_us


def merged(found: Sequence[Sequence[Hits]]) -> NDArray[np.float32]:
    """Return the best ten scores of each query over all shards, -inf where there are fewer."""
    return merge_tables(
        [padded([of_shards[shard].scores for of_shards in found]) for shard in range(len(found[0]))]
    )


def padded(scores: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return scores as one table, -inf where there are fewer than ten."""
    table = np.full((len(scores), RECALL_K), -np.inf, dtype=np.float32)
    for row, own in zip(table, scores, strict=True):
        row[: len(own)] = own
    return table


if __name__ == "__main__":
    typer.run(main)
