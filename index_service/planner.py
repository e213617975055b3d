"""Which way a query is searched: along the graph, along the graph with a filter, or exactly."""

from dataclasses import dataclass, replace
from enum import StrEnum
from math import sqrt

HITS_MEASURED = 10
"""How many hits the gate measures the recall of."""

_RAISE_MAX = 4


class SearchPath(StrEnum):
    """How candidates are found."""

    HNSW = "hnsw"
    HNSW_FILTERED = "hnsw_filtered"
    EXACT_SCAN = "exact_scan"
    EXACT_FILTERED = "exact_filtered"
    EMPTY = "empty"

    @property
    def exact(self) -> bool:
        """Tell whether nothing can be missed on this path."""
        return self not in (SearchPath.HNSW, SearchPath.HNSW_FILTERED)


@dataclass(frozen=True, slots=True)
class PlanLimits:
    """Where one path becomes better than another."""

    rows_a_candidate: float = 35.0
    """How many scattered rows are scanned in the time that one candidate of ef_search costs along
    the graph: with a filter, the cheaper of both ways is taken."""
    graph_selectivity_min: float = 0.8
    """From this share of matching rows on, the graph is searched as without a filter."""
    ef_filtered_max: int = 2_048
    """A filter that ef_search would be raised further for is searched exactly; four times the usual
    ef_search, where that is more."""


@dataclass(frozen=True, slots=True)
class FirstTry:
    """A cheaper search for ten hits that is enough for most queries.

    Where the tenth best scores low, the query lies far from all items, and a walk along the graph
    misses more. Source: index_service/LOG.md, entry 11.
    """

    ef_search: int
    score_enough: float
    """Searched once more, wider, when the tenth best score is below this."""
    ef_search_wider: int


@dataclass(frozen=True, slots=True)
class Effort:
    """How hard the searches of a generation try, as its gate measured."""

    ef_search: int
    rescored: int = 64
    """Candidates rescored with full vectors for ten hits; in proportion for more."""
    first_try: FirstTry | None = None
    """What searches without a filter for up to ten hits do instead of one with ef_search."""

    def candidates(self, wanted: int) -> int:
        """Return how many candidates are rescored for so many hits.

        >>> Effort(ef_search=256, rescored=24).candidates(10)
        24
        >>> Effort(ef_search=256, rescored=24).candidates(100)
        240
        """
        return max(self.rescored, -(-wanted * self.rescored // HITS_MEASURED))

    def at(self, ef_search: int) -> "Effort":
        """Return the effort with an ef_search that somebody asked for."""
        return Effort(ef_search, self.rescored)


@dataclass(frozen=True, slots=True)
class Demand:
    """What a query asks of the index."""

    wanted: int
    """Candidates needed: the hits asked for, and those that will be dropped."""
    effort: Effort
    exact: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """The way taken."""

    path: SearchPath
    ef_search: int = 0
    """Zero on exact paths."""
    candidates: int = 0
    """How many of the graph's finds are rescored; zero on exact paths."""
    first_try: FirstTry | None = None
    """Set while what is found may be called not good enough."""
    last_try: bool = False
    """True when the next wider search is the exact one."""

    def doubts(self, tenth_score: float) -> bool:
        """Tell whether hits of which the tenth scores so much call for a wider search."""
        return self.first_try is not None and tenth_score < self.first_try.score_enough


def plan(
    demand: Demand,
    items: int,
    matched: int | None,
    limits: PlanLimits,
    share_nearby: float = 1.0,
    scan_cost: float | None = None,
) -> Plan:
    """Choose the way to search `items` rows of which `matched` may be hits (None: no filter).

    Source: the thresholds are those of index_service/LOG.md, entries 8, 19 and 24.

    Args:
        demand: what is asked.
        items: rows of the shard.
        matched: rows that a filter leaves; None without a filter.
        limits: where one path becomes better than another.
        share_nearby: of the rows nearest to the query, the share that the filter leaves; counts
            where it is less than of all rows.
        scan_cost: what scanning the rows that match costs, in scattered rows; None for as many as
            there are.

    >>> plan(Demand(10, Effort(ef_search=64), exact=False), 100_000, None, PlanLimits()).path
    <SearchPath.HNSW: 'hnsw'>
    >>> plan(Demand(10, Effort(ef_search=64), exact=False), 100_000, 500, PlanLimits()).path
    <SearchPath.EXACT_FILTERED: 'exact_filtered'>
    """
    filtered = matched is not None and matched < items
    if items == 0 or matched == 0:
        return Plan(SearchPath.EMPTY)
    if demand.exact:
        return exactly(filtered)
    ef_search = max(demand.effort.ef_search, demand.wanted)
    if not filtered:
        # With as many candidates as rows, the graph costs more than the scan.
        if ef_search >= items:
            return exactly(filtered)
        first = demand.effort.first_try if demand.wanted <= HITS_MEASURED else None
        graph = _graph(SearchPath.HNSW, first.ef_search if first else ef_search, demand)
        return replace(graph, first_try=first)
    assert matched is not None
    selectivity = min(matched / items, share_nearby)
    ef_filtered = ef_search
    if selectivity < limits.graph_selectivity_min:
        ef_filtered = int(ef_search / sqrt(selectivity))
    too_wide = ef_filtered > max(limits.ef_filtered_max, _RAISE_MAX * ef_search)
    cost = matched if scan_cost is None else scan_cost
    if too_wide or cost <= limits.rows_a_candidate * ef_filtered:
        return exactly(filtered)
    return _graph(SearchPath.HNSW_FILTERED, ef_filtered, demand)


def wider(before: Plan, limits: PlanLimits) -> Plan:
    """Return the next try after one that found too little: wider ones, then the exact one."""
    if before.first_try:
        return replace(before, ef_search=before.first_try.ef_search_wider, first_try=None)
    if before.last_try:
        return exactly(before.path is SearchPath.HNSW_FILTERED)
    ef_search = max(before.ef_search, min(4 * before.ef_search, 2 * limits.ef_filtered_max))
    return replace(before, ef_search=ef_search, last_try=True)


def exactly(filtered: bool) -> Plan:
    """Return the plan that looks at every row that may be a hit."""
    return Plan(SearchPath.EXACT_FILTERED if filtered else SearchPath.EXACT_SCAN)


def _graph(path: SearchPath, ef_search: int, demand: Demand) -> Plan:
    enough = demand.effort.candidates(demand.wanted)
    return Plan(path, ef_search, candidates=min(ef_search, enough))
