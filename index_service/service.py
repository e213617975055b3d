"""IndexService over gRPC: checks what is asked, runs it on a search thread, answers."""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import faiss
import numpy as np
import psutil

from index_service.executor import Ran, SearchExecutor, Ticket, one_thread_each
from index_service.generation.manifest import GateEntry, Manifest
from index_service.holdings import Hold, Holding, State
from index_service.metrics import IndexMetrics
from index_service.planner import HITS_MEASURED, Effort, PlanLimits
from index_service.query import Query
from index_service.recall import Measurement, probe_recall
from index_service.sampling import RecallSampler
from index_service.shard import Arrival, Shard, Stop
from index_service.wire import (
    EF_SEARCH_MAX,
    filter_of,
    gate_message,
    hits_message,
    holding_message,
    queries_of,
    require_between,
)
from protos.vitrine.v1 import index_pb2, index_pb2_grpc
from rpc.deadlines import Deadline
from rpc.errors import DataLoss, InvalidArgument, VitrineError
from rpc.interceptors import Context
from rpc.server import software_version
from rpc.telemetry import get_logger
from rpc.vectors import pack

T = TypeVar("T")

ITEM_IDS_MAX = 1_000
PROBES_MAX = 1_000
PROBES_DEFAULT = 100
_GENERATION_MAX = 2**63 - 1
# Loading and releasing take seconds; they never take a search thread.
_ASIDE_THREADS = 4
VERIFY_AGAIN_S = 60.0
"""After how long files that could not be read are checked again."""


class IndexService(index_pb2_grpc.IndexServiceServicer):
    """Answers for one shard."""

    def __init__(
        self,
        shard: Shard,
        executor: SearchExecutor,
        metrics: IndexMetrics,
        plan_limits: PlanLimits,
        call_timeout_s: float,
        short_search_us: int = 0,
        recall_sample: float = 0.0,
    ) -> None:
        self._shard = shard
        self._executor = executor
        self._metrics = metrics
        self._plan_limits = plan_limits
        self._call_timeout_s = call_timeout_s
        self._short_search_us = short_search_us
        self._aside = ThreadPoolExecutor(_ASIDE_THREADS, "aside", initializer=one_thread_each)
        # A release waits for the probes that hold its generation: those never wait for its thread.
        self._probes = ThreadPoolExecutor(1, "probe", initializer=one_thread_each)
        self._sampler = RecallSampler(
            recall_sample, plan_limits, lambda: executor.waiting, metrics.count_sampled
        )
        self._moves: set[asyncio.Task[Any]] = set()
        self._closing = asyncio.Event()
        self._process = psutil.Process()
        self._log = get_logger()
        self.on_change: Callable[[bool], Awaitable[None]] | None = None
        """Told whether some generation can be searched, after each load and release."""

    async def Search(
        self, request: index_pb2.IndexServiceSearchRequest, context: Context
    ) -> index_pb2.IndexServiceSearchResponse:
        """Find the best hits of each query."""
        if not request.encoder_id:
            raise InvalidArgument("encoder_id", "empty", "the encoder of the embeddings")
        hold = self._hold(request.generation, request.encoder_id)
        queries = _or_close(hold, lambda: queries_of(request, hold.manifest))
        search = partial(self._shard.search, hold, queries)
        short = _expected_us(queries, hold.manifest.gate) <= self._short_search_us
        ran = await self._run(hold, search, context, short=short)
        self._metrics.backlog.add(self._metrics.count_search, ran.result, ran.queue_s)
        self._sampler.offer(partial(self._hold, request.generation), queries, ran.result)
        hits = [
            hits_message(each, with_profile=query.profile)
            for each, query in zip(ran.result, request.queries, strict=True)
        ]
        return index_pb2.IndexServiceSearchResponse(
            hits=hits,
            generation=request.generation,
            shard=self._shard.number,
            items=hold.segment.items,
            applied_seq=hold.manifest.seq,
            queue_us=int(ran.queue_s * 1e6),
            search_us=int(ran.run_s * 1e6),
        )

    async def GetEmbeddings(
        self, request: index_pb2.GetEmbeddingsRequest, context: Context
    ) -> index_pb2.GetEmbeddingsResponse:
        """Return stored embeddings of the items on this shard."""
        require_between("item_ids", len(request.item_ids), 1, ITEM_IDS_MAX, "ids")
        hold = self._hold(request.generation)
        segment, dim = hold.segment, hold.manifest.encoder.dim

        def read(_: Stop) -> tuple[list[str], bytes]:
            rows = [(each, segment.row_of(each)) for each in request.item_ids]
            found = [(each, row) for each, row in rows if row is not None]
            numbers = np.array([row for _, row in found], dtype=np.int64)
            return [each for each, _ in found], pack(segment.embeddings(numbers))

        ran = await self._run(hold, read, context)
        item_ids, embeddings = ran.result
        return index_pb2.GetEmbeddingsResponse(item_ids=item_ids, embeddings=embeddings, dim=dim)

    async def Count(
        self, request: index_pb2.CountRequest, context: Context
    ) -> index_pb2.CountResponse:
        """Count the items that match a filter, or all."""
        hold = self._hold(request.generation)
        segment, schema = hold.segment, hold.manifest.schema
        items = segment.items
        if not request.HasField("filter"):
            hold.close()
            return index_pb2.CountResponse(items_matched=items, items=items)
        tree = _or_close(hold, lambda: filter_of(request.filter, schema, "filter"))
        ran = await self._run(hold, lambda stop: segment.matches(tree, stop).count, context)
        return index_pb2.CountResponse(items_matched=ran.result, items=items)

    async def DescribeShard(
        self, request: index_pb2.DescribeShardRequest, context: Context
    ) -> index_pb2.DescribeShardResponse:
        """Say what this shard is and holds."""
        return index_pb2.DescribeShardResponse(
            shard=self._shard.number,
            generations=[holding_message(holding) for holding in self._shard.holdings()],
            resident_bytes=self._process.memory_info().rss,
            version=software_version(),
        )

    async def LoadGeneration(
        self, request: index_pb2.IndexServiceLoadGenerationRequest, context: Context
    ) -> index_pb2.IndexServiceLoadGenerationResponse:
        """Load a generation beside those already served."""
        generation = _generation(request.generation)
        arrival = await self.load(generation)
        # As it was when it had arrived: someone may have waited to release it.
        loaded = Holding(generation, State.READY, arrival.loaded)
        return index_pb2.IndexServiceLoadGenerationResponse(
            loaded=holding_message(loaded), load_us=arrival.load_us, warm_us=arrival.warm_us
        )

    async def ReleaseGeneration(
        self, request: index_pb2.ReleaseGenerationRequest, context: Context
    ) -> index_pb2.ReleaseGenerationResponse:
        """Let go of a generation once its searches have ended."""
        generation = _generation(request.generation)
        released = await self._move(self._release(generation))
        return index_pb2.ReleaseGenerationResponse(released=released)

    async def ProbeRecall(
        self, request: index_pb2.ProbeRecallRequest, context: Context
    ) -> index_pb2.ProbeRecallResponse:
        """Measure ann_recall@10 on this shard's items, now."""
        count = request.probes if request.HasField("probes") else PROBES_DEFAULT
        require_between("probes", count, 1, PROBES_MAX)
        asked = request.HasField("ef_search")
        if asked:
            require_between("ef_search", request.ef_search, 1, EF_SEARCH_MAX)
        with self._hold(request.generation) as hold:
            gate = hold.manifest.gate
            effort = gate.effort.at(request.ef_search) if asked else gate.effort
            measured = await self._probe(hold, count, effort, context)
            self._metrics.show_recall(request.generation, measured.ann_recall_at_10)
        return index_pb2.ProbeRecallResponse(measured=gate_message(_gate_of(measured, gate)))

    async def load(self, generation: int) -> Arrival:
        """Load a generation; goes on to its end when the caller leaves.

        Raises:
            VitrineError: it cannot be loaded.
        """
        return await self._move(self._load(generation))

    async def close(self) -> None:
        """Let loads and releases end, and take no further work."""
        self._closing.set()
        await asyncio.gather(*self._moves, return_exceptions=True)
        self._sampler.close()
        for pool in (self._aside, self._probes):
            pool.shutdown(wait=False, cancel_futures=True)
        self._executor.close()

    def _hold(self, generation: int, encoder_id: str | None = None) -> Hold:
        return self._shard.hold(_generation(generation), encoder_id)

    async def _run(
        self, hold: Hold, work: Callable[[Stop], T], context: Context, *, short: bool = False
    ) -> Ran[T]:
        """Run work on a search thread, holding the generation until it has ended."""
        deadline = Deadline.of_call(context, self._call_timeout_s)
        return await self._executor.run(work, deadline, at_end=hold.close, short=short)

    async def _probe(self, hold: Hold, count: int, effort: Effort, context: Context) -> Measurement:
        ticket = Ticket(Deadline.of_call(context, self._call_timeout_s))
        ticket.started = True
        probing = asyncio.get_running_loop().run_in_executor(
            self._probes,
            probe_recall,
            hold.segment,
            hold.probes[:count],
            effort,
            self._plan_limits,
            ticket.check,
        )
        try:
            return await asyncio.shield(probing)
        except asyncio.CancelledError:
            ticket.abandoned = True
            # The thread still reads the files: the hold may go when it has noticed.
            await asyncio.wait([probing])
            raise

    async def _load(self, generation: int) -> Arrival:
        loop = asyncio.get_running_loop()
        try:
            arrival = await loop.run_in_executor(self._aside, self._shard.load, generation)
        except VitrineError as exc:
            self._log.error("a generation was not loaded", generation=generation, error=str(exc))
            raise
        if arrival.load_us:
            self._metrics.count_load(arrival)
            self._log.info(
                "loaded",
                generation=generation,
                load_us=arrival.load_us,
                warm_us=arrival.warm_us,
                locked_bytes=self._shard.locked_bytes(generation),
            )
            self._warn_of_another_faiss(arrival.loaded.manifest)
        await self._tell()
        if arrival.load_us and self._shard.verifies_late:
            self._start(self._verify_late(generation))
        return arrival

    async def _verify_late(self, generation: int) -> None:
        """Check what is served already, and let go of it when it is damaged."""
        while not await self._is_verified(generation):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), VERIFY_AGAIN_S)
                return

    async def _is_verified(self, generation: int) -> bool:
        """Check a generation; False when its files could not be read and nothing is known."""
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._aside, self._shard.verify_late, generation)
        except DataLoss as exc:
            self._log.error("a generation is damaged", generation=generation, error=str(exc))
            await self._release(generation)
        except VitrineError as exc:
            self._log.info("not verified", generation=generation, error=str(exc))
        except OSError as exc:
            self._log.error(
                "not verified yet",
                generation=generation,
                error=str(exc),
                again_in_s=VERIFY_AGAIN_S,
            )
            return False
        return True

    def _warn_of_another_faiss(self, manifest: Manifest) -> None:
        """Say that graphs come from another FAISS than the one that searches them."""
        if manifest.faiss_version != faiss.__version__:
            self._log.warning(
                "a generation was built with another version of FAISS; its recall was measured "
                "with that one, and ProbeRecall measures it with this one",
                generation=manifest.generation,
                built_with=manifest.faiss_version,
                searched_with=faiss.__version__,
            )

    async def _release(self, generation: int) -> bool:
        loop = asyncio.get_running_loop()
        released = await loop.run_in_executor(self._aside, self._shard.release, generation)
        if released:
            self._log.info("released", generation=generation)
        await self._tell()
        return released

    async def _move(self, moving: Awaitable[T]) -> T:
        """Await a load or release that ends even if its caller leaves."""
        return await asyncio.shield(self._start(moving))

    def _start(self, moving: Awaitable[T]) -> "asyncio.Task[T]":
        """Start what `close` waits for."""
        task: asyncio.Task[T] = asyncio.ensure_future(moving)
        self._moves.add(task)
        task.add_done_callback(self._moves.discard)
        # Looked at here, so that asyncio does not complain when the caller has left.
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        return task

    async def _tell(self) -> None:
        self._metrics.show_holdings(self._shard.holdings())
        if self.on_change is not None:
            await self.on_change(self._shard.ready)


def _expected_us(queries: Sequence[Query], gate: GateEntry) -> float:
    """Return how long one query's walk along the graph takes, by the gate; all else is long."""
    if len(queries) > 1 or queries[0].exact or queries[0].filter is not None:
        return math.inf
    measured = gate.first_try.ef_search if gate.first_try else gate.ef_search
    usual = measured if queries[0].fetch_k <= HITS_MEASURED else gate.ef_search
    ef_search = max(queries[0].ef_search or usual, queries[0].fetch_k)
    return gate.search_p50_us * max(1.0, ef_search / max(1, measured))


def _or_close(hold: Hold, read: Callable[[], T]) -> T:
    """Return what `read` returns; close the hold when it refuses."""
    try:
        return read()
    except BaseException:
        hold.close()
        raise


def _generation(generation: int) -> int:
    require_between("generation", generation, 1, _GENERATION_MAX)
    return generation


def _gate_of(measured: Measurement, gate: GateEntry) -> GateEntry:
    return GateEntry(
        ann_recall_at_10=measured.ann_recall_at_10,
        required_ann_recall_at_10=gate.required_ann_recall_at_10,
        ef_search=measured.effort.ef_search,
        probes=measured.probes,
        search_p50_us=measured.search_p50_us,
        rescored=measured.effort.rescored,
        first_try=measured.effort.first_try,
    )
