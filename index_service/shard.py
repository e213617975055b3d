"""One shard: how a batch of queries becomes hits, and how generations come and go meanwhile."""

import errno
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from index_service.generation.manifest import (
    GRAPH_FILE,
    ITEM_IDS_FILE,
    PROBES_FILE,
    Manifest,
    shard_folder,
)
from index_service.generation.verify import Verification, verify
from index_service.generation_memory import GenerationMemory
from index_service.heap import give_back_freed
from index_service.holdings import Hold, Holding, Holdings, Loaded
from index_service.memory import MemoryBudget, needed_bytes
from index_service.planner import (
    HITS_MEASURED,
    Demand,
    Effort,
    Plan,
    PlanLimits,
    SearchPath,
    plan,
    wider,
)
from index_service.query import Hits, Profile, Query
from index_service.scoring import Rows, Scores, best
from index_service.segment import Matches, Segment
from index_service.store import GenerationStore
from rpc.errors import DataLoss, FailedPrecondition, ResourceExhausted

ROWS_NEARBY = 64
"""How many rows nearest to a query tell what a filter leaves there."""

Stop = Callable[[], None]
"""Called now and then during a search; raises when nobody waits for the answer any more."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A generation as loaded, and what that took; zero when it was there already."""

    loaded: Loaded
    load_us: int = 0
    warm_us: int = 0


@dataclass(frozen=True, slots=True)
class ShardLimits:
    """What one shard may hold."""

    generations_max: int = 4
    filters_cached_max: int = 128
    warm_probes_max: int = 256
    lock_memory: bool = True


class Shard:
    """Holds generations of one shard and searches them; every method may run on any thread."""

    def __init__(
        self,
        number: int,
        store: GenerationStore,
        verification: Verification,
        limits: ShardLimits,
        plan_limits: PlanLimits,
        budget: MemoryBudget | None = None,
    ) -> None:
        self.number = number
        self._store = store
        self._verification = verification
        self._limits = limits
        self._plan_limits = plan_limits
        self.budget = budget or MemoryBudget()
        self._memory = GenerationMemory(self.budget, limits.lock_memory)
        self._holdings = Holdings(limits.generations_max)

    def search(self, hold: Hold, queries: Sequence[Query], stop: Stop) -> list[Hits]:
        """Return each query's best hits in a generation that is held meanwhile."""
        effort = hold.manifest.gate.effort
        return search_segment(hold.segment, queries, effort, self._plan_limits, stop)

    def hold(self, generation: int, encoder_id: str | None = None) -> Hold:
        """Keep a generation from being dropped; the caller closes the hold.

        Args:
            generation: which one.
            encoder_id: the encoder of the queries to come; None when there are none.

        Raises:
            NotFound: it was never loaded here.
            Unavailable: it is still being loaded.
            FailedPrecondition: GENERATION_RETIRED, or ENCODER_MISMATCH.
        """
        hold = self._holdings.hold(generation)
        try:
            if encoder_id is not None:
                _require_encoder(hold, encoder_id)
        except FailedPrecondition:
            hold.close()
            raise
        return hold

    def load(self, generation: int) -> Arrival:
        """Bring a generation beside those already searched, or say that it is there.

        Raises:
            NotFound: there is no such generation.
            DataLoss: a file differs from what the manifest promises.
            FailedPrecondition: SHARD_MISMATCH or GENERATION_FORMAT.
            ResourceExhausted: too many generations are here, or memory or file handles are short.
        """
        if loaded := self._holdings.begin(generation):
            return Arrival(loaded)
        try:
            with _enough_handles(generation):
                arrival = self._bring(generation)
        except BaseException:
            self._memory.free(generation)
            self._store.let_go(generation, remove=False)
            self._holdings.give_up(generation)
            raise
        self._holdings.finish(generation, arrival.loaded)
        give_back_freed()
        return arrival

    def release(self, generation: int) -> bool:
        """Drop a generation once the searches that hold it have ended; False when not here."""
        released = self._holdings.release(generation)
        if released:
            self._memory.free(generation)
            self._store.let_go(generation, remove=True)
            give_back_freed()
        return released

    def verify_late(self, generation: int) -> None:
        """Check the files of a generation that was served before they were checked.

        Raises:
            DataLoss: a file differs from what the manifest promises.
            VitrineError: it is not here any more.
            OSError: a file could not be read; nothing is known of it.
        """
        with self.hold(generation) as hold:
            self._verify(self._store.folder(generation), hold.manifest, Verification.FULL)

    @property
    def verifies_late(self) -> bool:
        """Tell whether generations are served before their checksums are checked."""
        return self._verification is Verification.LAZY

    def locked_bytes(self, generation: int) -> int:
        """Return how much of a generation's files is locked in memory."""
        return self._memory.locked(generation)

    def holdings(self) -> list[Holding]:
        """Return the generations here, coming and going, by number."""
        return self._holdings.all()

    @property
    def ready(self) -> bool:
        """Tell whether some generation can be searched."""
        return self._holdings.any_ready

    def _bring(self, generation: int) -> Arrival:
        """Do the steps of loading in the only order that never serves a damaged file."""
        started_s = time.perf_counter()
        # 1. There is such a generation, and this shard is one of its own.
        manifest = self._store.manifest(generation)
        if self.number >= manifest.num_shards:
            raise FailedPrecondition(
                "SHARD_MISMATCH",
                f"generation {generation} is cut into {manifest.num_shards} shards, "
                f"0..{manifest.num_shards - 1}; this is shard {self.number}. "
                "Build it for as many shards as there are",
                expected=f"0..{manifest.num_shards - 1}",
                got=self.number,
            )
        # 2. There is memory for it beside those that are here.
        needed = needed_bytes(manifest, self.number, self._limits.filters_cached_max)
        self._memory.reserve(generation, needed)
        # 3. Its files are here, and are what the manifest promises.
        folder = self._store.fetch(generation, manifest, self.number)
        self._verify(folder, manifest, self._verification)
        # 4. They are mapped, not read: memory is shared with the page cache.
        own_folder = folder / shard_folder(self.number)
        segment = Segment.open(
            own_folder,
            manifest.shards[self.number].items,
            manifest.encoder.dim,
            manifest.faiss_version,
            self._limits.filters_cached_max,
        )
        # 5. Where memory gets short, vectors give way: a search needs the fewest pages of these.
        self._memory.lock(generation, [own_folder / GRAPH_FILE, own_folder / ITEM_IDS_FILE])
        loaded_s = time.perf_counter()
        # 6. Probe queries walk the graph, so that the first caller finds it in memory.
        probes = np.load(folder / PROBES_FILE, allow_pickle=False)
        warming = probes[: self._limits.warm_probes_max]
        queries = [Query(embedding=probe, fetch_k=10) for probe in warming]
        search_segment(segment, queries, manifest.gate.effort, self._plan_limits, _never)
        warm_s = time.perf_counter()
        return Arrival(
            Loaded(manifest, segment, probes),
            _us(loaded_s - started_s),
            _us(warm_s - loaded_s),
        )

    def _verify(self, folder: Path, manifest: Manifest, verification: Verification) -> None:
        """Check this shard's files; a damaged copy is fetched anew next time."""
        try:
            verify(folder, manifest, self.number, verification)
        except DataLoss as exc:
            self._store.forget(exc.file)
            raise


def search_segment(
    segment: Segment,
    queries: Sequence[Query],
    effort: Effort,
    limits: PlanLimits,
    stop: Stop,
) -> list[Hits]:
    """Return each query's best hits, by score descending, then item_id ascending."""
    # 1. Which rows may be hits: filters give exact counts, and with them the way to search.
    searches = [_begin(segment, query, effort, limits, stop) for query in queries]
    _look_nearby(segment, searches, limits, stop)
    unfinished = searches
    while unfinished:
        for together in _by_way(unfinished):
            # 2. Candidates: queries on the same way share one pass over graph or vectors.
            found = _find(segment, together, stop)
            # 3. Full vectors give the final scores; best first, ties by item_id.
            for search, rows in zip(together, found, strict=True):
                stop()
                _rank(segment, search, rows)
        # 4. Where too few were found, or the best are poor, once more: wider, in the end exactly.
        unfinished = [search for search in unfinished if search.is_short or search.is_doubtful]
        for search in unfinished:
            search.plan = wider(search.plan, limits)
    # 5. Rows become item ids.
    return [_hits(segment, search) for search in searches]


@dataclass(slots=True, eq=False)
class _Search:
    """One query on its way."""

    query: Query
    demand: Demand
    matches: Matches | None
    matched: int
    excluded: Rows
    plan: Plan
    filter_us: int
    rows: Rows = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    scores: Scores = field(default_factory=lambda: np.empty(0, dtype=np.float32))
    tenth_score: float = -np.inf
    """The tenth best score of all candidates; of the last, where there are fewer."""
    rescored: int = 0
    candidates_us: int = 0
    rescore_us: int = 0

    @property
    def wanted(self) -> int:
        """Candidates needed: hits, and the excluded items that may be among them."""
        return self.query.fetch_k + len(self.excluded)

    @property
    def is_short(self) -> bool:
        """Tell whether there are more hits than were found."""
        return len(self.rows) < min(self.query.fetch_k, self.matched - len(self.excluded))

    @property
    def is_doubtful(self) -> bool:
        """Tell whether better hits may well have been missed."""
        return self.plan.doubts(self.tenth_score)


def _begin(
    segment: Segment, query: Query, effort: Effort, limits: PlanLimits, stop: Stop
) -> _Search:
    """Count what may be a hit, and choose the way."""
    started_s = time.perf_counter()
    matches = segment.matches(query.filter, stop) if query.filter is not None else None
    matched = segment.items if matches is None else matches.count
    excluded = _excluded_rows(segment, query.exclude_item_ids, matches)
    demand = Demand(
        wanted=query.fetch_k + len(excluded),
        effort=effort.at(query.ef_search) if query.ef_search else effort,
        exact=query.exact,
    )
    chosen = _plan(segment, demand, matches, limits)
    filter_us = _us(time.perf_counter() - started_s)
    return _Search(query, demand, matches, matched, excluded, chosen, filter_us)


def _look_nearby(
    segment: Segment, searches: Sequence[_Search], limits: PlanLimits, stop: Stop
) -> None:
    """Plan searches along the graph with a filter anew, by what the filter leaves near the query.

    Attributes go with what vectors mean: where few of the nearest rows match, those that do lie
    elsewhere, and a walk from here would miss them.
    """
    filtered = [search for search in searches if search.plan.path is SearchPath.HNSW_FILTERED]
    if not filtered:
        return
    started_s = time.perf_counter()
    queries = np.stack([search.query.embedding for search in filtered])
    nearby = segment.search_graph(queries, ROWS_NEARBY, ROWS_NEARBY, ROWS_NEARBY, None, stop)
    for search, rows in zip(filtered, nearby, strict=True):
        assert search.matches is not None
        # Of so few rows, none is less than one, but not nothing.
        share = max(int(search.matches.mask[rows].sum()), 1) / len(rows)
        search.plan = _plan(segment, search.demand, search.matches, limits, share)
    share_us = _us(time.perf_counter() - started_s) // len(filtered)
    for search in filtered:
        search.filter_us += share_us


def _plan(
    segment: Segment,
    demand: Demand,
    matches: Matches | None,
    limits: PlanLimits,
    share_nearby: float = 1.0,
) -> Plan:
    if matches is None:
        return plan(demand, segment.items, None, limits)
    return plan(
        demand, segment.items, matches.count, limits, share_nearby, scan_cost=matches.scan_cost
    )


def _excluded_rows(segment: Segment, item_ids: Iterable[str], matches: Matches | None) -> Rows:
    """Return the rows of excluded items that could otherwise be hits, each once."""
    rows = {row for item_id in item_ids if (row := segment.row_of(item_id)) is not None}
    return np.array([row for row in rows if matches is None or row in matches], dtype=np.int64)


def _by_way(searches: Iterable[_Search]) -> list[list[_Search]]:
    """Group searches that go the same way over the same rows, in order of first appearance."""
    groups: dict[tuple[Plan, int], list[_Search]] = {}
    for search in searches:
        groups.setdefault((search.plan, id(search.matches)), []).append(search)
    return list(groups.values())


def _find(segment: Segment, together: Sequence[_Search], stop: Stop) -> list[Rows]:
    """Return each search's candidates, found in one pass."""
    started_s = time.perf_counter()
    way, matches = together[0].plan, together[0].matches
    queries = np.stack([search.query.embedding for search in together])
    match way.path:
        case SearchPath.EMPTY:
            found = [search.rows for search in together]
        case SearchPath.HNSW | SearchPath.HNSW_FILTERED:
            most = max(search.wanted for search in together)
            allowed = matches if way.path is SearchPath.HNSW_FILTERED else None
            found = segment.search_graph(
                queries, most, way.candidates, way.ef_search, allowed, stop
            )
        case SearchPath.EXACT_SCAN | SearchPath.EXACT_FILTERED:
            allowed = matches if way.path is SearchPath.EXACT_FILTERED else None
            found = segment.scan(queries, [search.wanted for search in together], allowed, stop)
    share_us = _us(time.perf_counter() - started_s) // len(together)
    for search in together:
        search.candidates_us += share_us
    return found


def _rank(segment: Segment, search: _Search, candidates: Rows) -> None:
    """Score candidates with full vectors and keep the best."""
    started_s = time.perf_counter()
    if len(search.excluded):
        candidates = candidates[~np.isin(candidates, search.excluded)]
    scores = segment.score(search.query.embedding, candidates)
    order = best(scores, candidates, max(search.query.fetch_k, HITS_MEASURED))
    if len(order):
        search.tenth_score = float(scores[order[:HITS_MEASURED][-1]])
    order = order[: search.query.fetch_k]
    search.rows, search.scores = candidates[order], scores[order]
    search.rescored += len(candidates)
    search.rescore_us += _us(time.perf_counter() - started_s)


def _hits(segment: Segment, search: _Search) -> Hits:
    return Hits(
        item_ids=segment.item_ids(search.rows),
        scores=search.scores,
        items_matched=search.matched,
        profile=Profile(
            path=search.plan.path,
            ef_search=search.plan.ef_search,
            selectivity=search.matched / segment.items if segment.items else 1.0,
            rescored=search.rescored,
            filter_us=search.filter_us,
            candidates_us=search.candidates_us,
            rescore_us=search.rescore_us,
        ),
    )


@contextmanager
def _enough_handles(generation: int) -> Iterator[None]:
    """Turn a want of file handles into a sentence: nothing is wrong with the files."""
    try:
        yield
    except OSError as exc:
        if exc.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        raise ResourceExhausted(
            f"no file handles are left to load generation {generation} with: {exc.strerror}; raise "
            "the limit (ulimit -n), or close connections",
            retry_after_s=10,
        ) from exc


def _require_encoder(hold: Hold, encoder_id: str) -> None:
    own = hold.manifest.encoder.encoder_id
    if encoder_id != own and encoder_id not in hold.manifest.compatible_encoder_ids:
        raise FailedPrecondition(
            "ENCODER_MISMATCH",
            f"generation {hold.manifest.generation} was embedded with encoder {own}; the query's "
            f"is {encoder_id}. Vectors of two encoders cannot be compared",
            expected=own,
            got=encoder_id,
        )


def _never() -> None:
    """Never stop."""


def _us(seconds: float) -> int:
    return int(seconds * 1e6)
