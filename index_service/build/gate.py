"""The gate: the least effort that finds what must be found, measured before publishing."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from index_service.build.workers import Advance, Workers
from index_service.generation.manifest import PROBES_FILE, GateEntry, shard_folder
from index_service.planner import Effort, FirstTry, PlanLimits
from index_service.recall import (
    Found,
    Measurement,
    ScoreTable,
    approximate_scores,
    exact_scores,
    measurement,
    merge_tables,
)
from index_service.segment import Segment
from rpc.terminal import warn

EF_SEARCH_GRID = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
"""Where recall is measured first."""

EF_SEARCH_STEPS = 8
"""Into how many steps the stretch between too little and enough is cut then."""

RESCORED_GRID = (12, 16, 20, 24, 32, 48, 64)
"""How many candidates may be rescored; the last is used to find ef_search."""

WIDER_GRID = (1.0, 1.04, 1.08, 1.15)
"""How much wider a search may be that rescores fewer candidates, as shares of that ef_search."""

RESCORED_COST = 1.0
"""What a rescored candidate costs, in candidates of ef_search: a fourth where memory holds all
vectors, several where it does not. Source: index_service/LOG.md, entry 28."""

RECALL_SPARED = 0.0005
"""Recall that fewer rescored candidates may cost, above the required one."""

FIRST_TRY_FROM = 64
"""From this ef_search on, a first try may be worth its own time."""

FIRST_TRY_GRID = tuple(product((1 / 6, 1 / 4, 1 / 3), (1.5, 2.0), (0.1, 0.2, 0.3)))
"""First tries: their ef_search and the wider one, both as shares of the one that finds enough, and
the share of searches that is searched wider."""

FIRST_TRY_COST_MAX = 0.85
"""Most that a search may cost with a first try, of one without, in candidates kept."""

Measure = Callable[[Sequence[Effort]], list[Measurement]]


@dataclass(frozen=True, slots=True, eq=False)
class GateTask:
    """One shard to measure, and how hard its searches try."""

    staging: Path
    shard: int
    items: int
    dim: int
    efforts: tuple[Effort, ...]
    exact: ScoreTable | None = None
    """What exact search finds, once it is known."""


@dataclass(frozen=True, slots=True, eq=False)
class ShardScores:
    """What exact search and each effort found on one shard."""

    exact: ScoreTable
    found: list[Found]


class ShardsMeasured:
    """Measures recall of a whole search: of the best ten over all shards, not of each its own."""

    def __init__(self, workers: Workers, staging: Path, items: Sequence[int], dim: int) -> None:
        """Measure nothing yet.

        Args:
            workers: who searches.
            staging: the folder of the generation in the making.
            items: how many each shard has.
            dim: length of a vector.
        """
        self._workers = workers
        self._staging = staging
        self._items = items
        self._dim = dim
        self._exact: list[ScoreTable] | None = None

    def __call__(self, efforts: Sequence[Effort]) -> list[Measurement]:
        """Search every shard with every probe at each effort, one query at a time."""
        tasks = [
            GateTask(
                self._staging,
                shard,
                items,
                self._dim,
                tuple(efforts),
                self._exact[shard] if self._exact else None,
            )
            for shard, items in enumerate(self._items)
        ]
        scores = self._workers.run(
            measure_shard, tasks, "measure recall", len(tasks) * len(efforts)
        )
        self._exact = [each.exact for each in scores]
        exact = merge_tables(self._exact)
        return [
            measurement(exact, [each.found[number] for each in scores], effort)
            for number, effort in enumerate(efforts)
        ]


def measure_shard(task: GateTask, advance: Advance) -> ShardScores:
    """Search one shard with every probe, exactly and at every effort, one query at a time."""
    files = task.staging / shard_folder(task.shard)
    segment = Segment.open_unfiltered(files, task.items, task.dim, faiss.__version__)
    probes = np.load(task.staging / PROBES_FILE)
    limits = PlanLimits()
    exact = task.exact
    if exact is None:
        exact = exact_scores(segment, probes, limits, _never)
    found = []
    for effort in task.efforts:
        found.append(approximate_scores(segment, probes, effort, limits, _never))
        advance(1)
    return ShardScores(exact, found)


def choose(measure: Measure, required_recall: float, num_shards: int = 1) -> GateEntry:
    """Return the gate at the least effort that reaches the recall, or at the largest one."""
    # 1. Between which two of the grid enough is found for the first time.
    most = RESCORED_GRID[-1]
    coarse = measure([Effort(ef_search, most) for ef_search in EF_SEARCH_GRID])
    enough = first_reaching(coarse, required_recall)
    # 2. Where between them.
    if steps := _between(enough.effort.ef_search):
        fine = measure([Effort(ef_search, most) for ef_search in steps])
        enough = first_reaching([*fine, enough], required_recall)
    # 3. How few candidates need be rescored there, or a little wider.
    if enough.ann_recall_at_10 >= required_recall:
        enough = with_fewer_rescored(measure, enough, required_recall)
    # 4. Whether a cheaper search does for most queries. Of several shards one would nearly always
    # search again, and all wait for it. Source: index_service/LOG.md, entry 14.
    if num_shards == 1 and enough.ann_recall_at_10 >= required_recall:
        enough = with_first_try(measure, enough, required_recall)
    return gate_of(enough, required_recall)


def with_fewer_rescored(
    measure: Measure, enough: Measurement, required_recall: float
) -> Measurement:
    """Return the cheapest way that rescores fewer candidates and finds as much, or `enough`."""
    ef_search = enough.effort.ef_search
    efforts = {
        Effort(round(wider * ef_search), rescored)
        for wider, rescored in product(WIDER_GRID, RESCORED_GRID)
    }
    cheaper = [each for each in efforts if cost_of(each) < cost_of(enough.effort)]
    cheaper.sort(key=lambda effort: (cost_of(effort), effort.ef_search))
    needed = max(required_recall, enough.ann_recall_at_10 - RECALL_SPARED)
    return first_reaching([*measure(cheaper), enough], needed)


def cost_of(effort: Effort) -> float:
    """Return what a search of ten hits costs, in candidates of ef_search.

    >>> cost_of(Effort(ef_search=256, rescored=24))
    280.0
    """
    return effort.ef_search + RESCORED_COST * effort.rescored


def with_first_try(measure: Measure, enough: Measurement, required_recall: float) -> Measurement:
    """Return the cheapest way with a first try that finds as much, or `enough` where none does.

    Costs are counted in candidates kept, which the time of a search is about proportional to: times
    would choose differently on each run.
    """
    effort = enough.effort
    if effort.ef_search < FIRST_TRY_FROM:
        return enough
    shares = sorted({share for share, _, _ in FIRST_TRY_GRID})
    firsts = measure([effort.at(round(share * effort.ef_search)) for share in shares])
    tenths = {share: each.tenth_scores for share, each in zip(shares, firsts, strict=True)}
    tries = [
        replace(effort, first_try=first_try(effort.ef_search, share, wider, doubted, tenths[share]))
        for share, wider, doubted in sorted(FIRST_TRY_GRID, key=first_try_cost)
        if first_try_cost((share, wider, doubted)) <= FIRST_TRY_COST_MAX
    ]
    needed = max(required_recall, enough.ann_recall_at_10 - RECALL_SPARED)
    measured = measure([each for each in tries if each.first_try])
    return next((each for each in measured if each.ann_recall_at_10 >= needed), enough)


def first_try_cost(shares: tuple[float, float, float]) -> float:
    """Return what a search with a first try costs, of one without.

    >>> first_try_cost((0.5, 2.0, 0.1))
    0.7
    """
    first, wider, doubted = shares
    return first + doubted * wider


def first_try(
    ef_search: int, share: float, wider: float, doubted: float, tenths: NDArray[np.float32]
) -> FirstTry | None:
    """Return a first try that leaves a share of searches in doubt; None where scores lack."""
    if not np.isfinite(tenths).all() or not tenths.size:
        return None
    score_enough = float(np.quantile(tenths, doubted))
    return FirstTry(round(share * ef_search), score_enough, round(wider * ef_search))


def first_reaching(measured: Sequence[Measurement], required: float) -> Measurement:
    """Return the first that reaches a recall, or the last."""
    reaching = (each for each in measured if each.ann_recall_at_10 >= required)
    return next(reaching, measured[-1])


def gate_of(measured: Measurement, required_recall: float) -> GateEntry:
    """Return what a manifest says of a measurement."""
    return GateEntry(
        ann_recall_at_10=measured.ann_recall_at_10,
        required_ann_recall_at_10=required_recall,
        ef_search=measured.effort.ef_search,
        probes=measured.probes,
        search_p50_us=measured.search_p50_us,
        rescored=measured.effort.rescored,
        first_try=measured.effort.first_try,
    )


def warn_below(gate: GateEntry) -> None:
    """Say that a generation is below its gate; it is published all the same."""
    if gate.passed:
        return
    warn(
        f"ann_recall@10 is {gate.ann_recall_at_10:.4f} at ef_search {gate.ef_search}, "
        f"below the required {gate.required_ann_recall_at_10}; promoting this generation will be "
        "refused. Build again with a larger --ef-construction or --m"
    )


def _between(ef_search: int) -> list[int]:
    """Return values between a value of the grid and the one before it.

    >>> _between(256)
    [200, 208, 216, 224, 232, 240, 248]
    >>> _between(16)
    []
    """
    place = EF_SEARCH_GRID.index(ef_search)
    if not place:
        return []
    values = np.linspace(EF_SEARCH_GRID[place - 1], ef_search, EF_SEARCH_STEPS + 1)
    return sorted({round(value) for value in values[1:-1].tolist()})


def _never() -> None:
    """Never stop."""
