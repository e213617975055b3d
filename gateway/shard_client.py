"""One shard of the cluster, behind as many replicas as its name has addresses."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import grpc

from gateway.coalesce import Batch, Coalescer
from gateway.hedging import HedgeBudget, RollingP95
from gateway.merge import Hits
from gateway.question import Question
from gateway.replica import Replica
from gateway.settings import GatewaySettings
from protos.vitrine.v1 import index_pb2, types_pb2
from rpc.deadlines import Deadline
from rpc.errors import (
    FailedPrecondition,
    NotFound,
    Unavailable,
    VitrineError,
    from_rpc_error,
    is_gone,
)

R = TypeVar("R")


class ShardAnswer(NamedTuple):
    """What one shard found for one query."""

    hits: Hits
    items: int
    items_matched: int
    applied_seq: int
    queue_us: int
    search_us: int
    queries_in_call: int
    profile: index_pb2.ShardProfile | None


class ShardClient:
    """Searches one shard: shares calls, retries on another replica, hedges slow calls."""

    def __init__(
        self,
        shard: int,
        settings: GatewaySettings,
        serves: Callable[[int], bool] = lambda _: False,
        look_soon: Callable[[], None] = lambda: None,
    ) -> None:
        """Make a client of a shard without replicas.

        Args:
            shard: its number.
            settings: limits of calls.
            serves: whether searches see a generation now, so that the shard has to hold it.
            look_soon: asks for a look at the cluster, which brings back what is missing.
        """
        self.shard = shard
        self.replicas: tuple[Replica, ...] = ()
        self._serves = serves
        self._look_soon = look_soon
        self._hedge = settings.hedge
        self._budget = HedgeBudget()
        self._latency = RollingP95()
        self._turn = itertools.count()
        self._calls: Coalescer[Question, ShardAnswer] = Coalescer(
            f"shard {shard}",
            self._search_batch,
            calls_max=1,
            batch_max=settings.shard_queries_max,
            waiting_max=settings.waiting_max,
            # Each query brings a filter of its own, and may bring home a thousand long ids.
            bytes_of=lambda question: question.num_bytes,
            # Half leaves room for what the call adds.
            batch_bytes_max=settings.message_bytes_max // 2,
        )

    def search(self, question: Question, deadline: Deadline) -> "asyncio.Future[ShardAnswer]":
        """Return the future answer of this shard; cancelling it withdraws the question."""
        return self._calls.submit(question, deadline, question.group)

    async def get_embeddings(
        self, generation: int, item_ids: Sequence[str], timeout_s: float
    ) -> index_pb2.GetEmbeddingsResponse:
        """Return the stored embeddings of those items that this shard holds."""
        return await self._on_some_replica(
            generation, lambda replica: replica.get_embeddings(generation, item_ids, timeout_s)
        )

    async def count(
        self, generation: int, filter_: types_pb2.Filter, timeout_s: float
    ) -> index_pb2.CountResponse:
        """Count the items on this shard that match a filter."""
        return await self._on_some_replica(
            generation, lambda replica: replica.count(generation, filter_, timeout_s)
        )

    @property
    def suspended(self) -> bool:
        """Tell whether every replica is silent, so that asking would only cost time."""
        return bool(self.replicas) and all(replica.suspended for replica in self.replicas)

    def describe(self, generation: int) -> index_pb2.LoadedGeneration | None:
        """Return what the shard said of a generation, if any replica ever had it ready.

        Of one that is on its way a replica knows the number alone.
        """
        for replica in self.replicas:
            if replica.holds(generation):
                return replica.generations[generation]
        return None

    def is_loading(self, generation: int) -> bool:
        """Tell whether a generation is on its way to some replica."""
        return any(replica.is_loading(generation) for replica in self.replicas)

    async def close(self) -> None:
        """Cancel calls and close connections."""
        await self._calls.close()
        for replica in self.replicas:
            await replica.close()

    async def _search_batch(self, _: Hashable, batch: Batch[Question]) -> Sequence[ShardAnswer]:
        started_s = time.perf_counter()
        response = await self._on_some_replica(
            batch.questions[0].generation,
            lambda replica: replica.search(batch),
            hedged=self._hedge,
        )
        self._latency.add(time.perf_counter() - started_s)
        return [_answer(response, hits) for hits in response.hits]

    async def _on_some_replica(
        self,
        generation: int,
        call: Callable[[Replica], Awaitable[R]],
        *,
        hedged: bool = False,
    ) -> R:
        """Call one replica; when it is gone, another one, once.

        Raises:
            VitrineError: the answer of the last replica called, or Unavailable without any.
        """
        first, *others = self._in_order_of_choice(generation)
        ask = partial(self._ask, generation, call)
        self._budget.earn()
        try:
            if hedged and others:
                return await self._ask_hedged(first, others[0], ask)
            return await ask(first)
        except Unavailable:
            if not others:
                raise
        return await ask(others[0])

    async def _ask(
        self, generation: int, call: Callable[[Replica], Awaitable[R]], replica: Replica
    ) -> R:
        """Call a replica; an answer that means that it is gone is told as just that.

        Raises:
            Unavailable: it is gone, or lacks what is served; another one may be asked.
            VitrineError: what else it answered.
        """
        replica.require_place()
        try:
            return await call(replica)
        except grpc.aio.AioRpcError as exc:
            error = from_rpc_error(exc)
            where = f"shard {self.shard} at {replica.address}"
            if is_gone(exc) and error.reason == exc.code().name:
                error = Unavailable("SHARD_DOWN", f"{where} cannot be reached")
            elif _lacks_generation(error) and self._serves(generation):
                if replica.holds(generation):  # Only what the last look did not see is news.
                    self._look_soon()
                error = Unavailable("SHARD_LOADING", f"{where} lacks generation {generation} now")
            raise error from exc

    def _in_order_of_choice(self, generation: int) -> Sequence[Replica]:
        """Return the replicas worth calling, in turn: those that hold the generation, if any do.

        Raises:
            Unavailable: the shard's name has no address.
        """
        if not self.replicas:
            raise Unavailable("SHARD_DOWN", f"shard {self.shard} has no address")
        if len(self.replicas) == 1:
            return self.replicas
        turn = next(self._turn) % len(self.replicas)
        in_turn = self.replicas[turn:] + self.replicas[:turn]
        holders = [replica for replica in in_turn if replica.holds(generation)]
        return sorted(
            holders or in_turn, key=lambda replica: (replica.suspended, not replica.reachable)
        )

    async def _ask_hedged(
        self, first: Replica, second: Replica, ask: Callable[[Replica], Awaitable[R]]
    ) -> R:
        """Ask the first replica, and the second too when the first is slower than usual."""
        calls: set[asyncio.Future[R]] = {asyncio.ensure_future(ask(first))}
        try:
            done, _ = await asyncio.wait(calls, timeout=self._latency.p95_s)
            if not done and self._budget.spend():
                calls.add(asyncio.ensure_future(ask(second)))
            return await _first_success(calls)
        finally:
            for unneeded in calls:
                unneeded.cancel()


def _lacks_generation(error: VitrineError) -> bool:
    """Tell whether a shard does not hold what it was asked about."""
    if isinstance(error, NotFound):
        return error.kind == "generation"
    return isinstance(error, FailedPrecondition) and error.reason == "GENERATION_RETIRED"


async def _first_success(calls: "set[asyncio.Future[R]]") -> R:
    """Return the first result; raise the last error when all fail."""
    pending = calls
    while True:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        # Several may end in one turn of the loop, in any order.
        answered = [call for call in done if not call.cancelled() and call.exception() is None]
        if answered or not pending:
            return next(iter(answered or done)).result()


def _answer(
    response: index_pb2.IndexServiceSearchResponse, hits: index_pb2.ShardHits
) -> ShardAnswer:
    return ShardAnswer(
        hits=Hits(tuple(hits.dense.item_ids), tuple(hits.dense.scores)),
        items=response.items,
        items_matched=hits.items_matched,
        applied_seq=response.applied_seq,
        queue_us=response.queue_us,
        search_us=response.search_us,
        queries_in_call=len(response.hits),
        profile=hits.profile if hits.HasField("profile") else None,
    )
