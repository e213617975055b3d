"""One index service process: how to call it, and what it said when it was last looked at."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import Message

from gateway.coalesce import Batch
from gateway.question import Question, request_of
from protos.vitrine.v1 import index_pb2, index_pb2_grpc, types_pb2
from rpc.client import open_channel, outgoing_metadata
from rpc.deadlines import Deadline
from rpc.errors import Unavailable, VitrineError, from_rpc_error
from rpc.standing_call import StandingCall
from rpc.telemetry import get_logger

LOADING = index_pb2.GENERATION_STATE_LOADING
READY = index_pb2.GENERATION_STATE_READY
LOAD_PAUSE_S = 1.0
"""How long a replica that could not load is left alone at first; each time twice as long."""
LOAD_PAUSE_MAX_S = 60.0
"""How long at most, and after a load that succeeded."""


@dataclass(slots=True)
class _Attempts:
    """Loads of one generation that a gateway asked for by itself, further and further apart."""

    generation: int
    error: str = ""
    pause_s: float = LOAD_PAUSE_S
    pause: Deadline = field(default_factory=lambda: Deadline.after(0.0))

    def rest(self, pause_s: float) -> None:
        """Let no attempt begin for a while, and for twice as long after the next one."""
        self.pause = Deadline.after(pause_s)
        self.pause_s = min(2 * pause_s, LOAD_PAUSE_MAX_S)


class Replica:
    """A replica of one shard. Its description is refreshed by `probe`."""

    def __init__(self, address: str, shard: int, message_bytes_max: int) -> None:
        """Make a replica that has not been reached yet.

        Args:
            address: where it listens.
            shard: which shard it is expected to be.
            message_bytes_max: largest message sent or received.
        """
        self.address = address
        self.shard = shard
        self.reachable = False
        self.suspended = False
        self.misplaced = False
        self.detail = "not reached yet"
        self.resident_bytes = 0
        self.generations: dict[int, index_pb2.LoadedGeneration] = {}
        self._channel = open_channel(address, message_bytes_max)
        self._stub = index_pb2_grpc.IndexServiceStub(self._channel)
        self._search: StandingCall[index_pb2.IndexServiceSearchResponse] = StandingCall(
            self._channel,
            "/vitrine.v1.IndexService/Search",
            index_pb2.IndexServiceSearchResponse.FromString,
        )
        self._attempts: dict[int, _Attempts] = {}
        self._asked = 0
        self._loading: asyncio.Task[None] | None = None
        self._log = get_logger()

    async def probe(self, timeout_s: float) -> None:
        """Ask the replica what it is. A silent one is suspended until it answers again."""
        try:
            answer: index_pb2.DescribeShardResponse = await self._ask(
                self._stub.DescribeShard, index_pb2.DescribeShardRequest(), timeout_s
            )
        except grpc.aio.AioRpcError as exc:
            self.reachable = False
            self.suspended = exc.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            self.detail = f"{exc.code().name}: {exc.details()}"
            return
        self.reachable, self.suspended, self.misplaced, self.detail = True, False, False, ""
        self.resident_bytes = answer.resident_bytes
        self.generations = {entry.generation: entry for entry in answer.generations}
        if answer.shard != self.shard:
            self._distrust(answer.shard)

    def holds(self, generation: int) -> bool:
        """Tell whether it said that it can search a generation."""
        return self._is(READY, generation)

    def is_loading(self, generation: int) -> bool:
        """Tell whether a generation is on its way, as it said or as it was asked."""
        is_asked = self._has_asked and self._asked == generation
        return is_asked or self._is(LOADING, generation)

    def why_not(self, generation: int) -> str:
        """Return why it could not load a generation when it was last asked; empty if it could."""
        return self._attempts[generation].error if generation in self._attempts else ""

    @property
    def _has_asked(self) -> bool:
        return self._loading is not None and not self._loading.done()

    def _is(self, state: index_pb2.GenerationState, generation: int) -> bool:
        entry = self.generations.get(generation)
        return entry is not None and entry.state == state

    def _distrust(self, shard: int) -> None:
        """Take nothing from an address where another shard answers, until it is looked at again."""
        self.reachable, self.misplaced, self.generations = False, True, {}
        self.detail = f"is shard {shard}, not {self.shard}; see SHARDS"

    def require_place(self) -> None:
        """Refuse to take another shard for this one: its items would count twice.

        Raises:
            Unavailable: SHARD_DOWN.
        """
        if self.misplaced:
            raise Unavailable("SHARD_DOWN", f"{self.address} {self.detail}")

    async def search(self, batch: Batch[Question]) -> index_pb2.IndexServiceSearchResponse:
        """Search this shard for questions of one group, answered in order.

        Raises:
            Unavailable: another shard answered.
        """
        answer = await self._search.ask(
            request_of(batch.questions),
            batch.deadline.remaining_s(),
            ",".join(batch.request_ids),
        )
        if answer.shard != self.shard:
            self._distrust(answer.shard)
            self.require_place()
        return answer

    async def get_embeddings(
        self, generation: int, item_ids: Sequence[str], timeout_s: float
    ) -> index_pb2.GetEmbeddingsResponse:
        """Return the stored embeddings of items that this shard holds."""
        request = index_pb2.GetEmbeddingsRequest(generation=generation, item_ids=item_ids)
        response: index_pb2.GetEmbeddingsResponse = await self._ask(
            self._stub.GetEmbeddings, request, timeout_s
        )
        return response

    async def count(
        self, generation: int, filter_: types_pb2.Filter, timeout_s: float
    ) -> index_pb2.CountResponse:
        """Count the items on this shard that match a filter."""
        request = index_pb2.CountRequest(generation=generation, filter=filter_)
        response: index_pb2.CountResponse = await self._ask(self._stub.Count, request, timeout_s)
        return response

    async def load(self, generation: int, timeout_s: float) -> index_pb2.LoadedGeneration:
        """Make the replica load a generation; returns once it can be searched.

        Raises:
            VitrineError: it refused, is another shard, or could not be reached.
        """
        self.require_place()
        request = index_pb2.IndexServiceLoadGenerationRequest(generation=generation)
        try:
            answer: index_pb2.IndexServiceLoadGenerationResponse = await self._ask(
                self._stub.LoadGeneration, request, timeout_s
            )
        except grpc.aio.AioRpcError as exc:
            raise from_rpc_error(exc) from exc
        self.generations[generation] = answer.loaded
        return answer.loaded

    def start_loading(self, generation: int, timeout_s: float) -> None:
        """Make the replica load a generation aside, unless it loads one, or did a moment ago."""
        if generation not in self._attempts:
            # Two at a time are asked for at most: what is promoted, and what is served.
            newest = list(self._attempts.items())[-1:]
            self._attempts = {**dict(newest), generation: _Attempts(generation)}
        attempts = self._attempts[generation]
        if not self._has_asked and attempts.pause.passed:
            self._asked = generation
            self._loading = asyncio.create_task(self._load_aside(attempts, timeout_s))

    async def _load_aside(self, attempts: _Attempts, timeout_s: float) -> None:
        try:
            await self.load(attempts.generation, timeout_s)
        except VitrineError as exc:
            self._log.warning(
                "a shard cannot load",
                address=self.address,
                generation=attempts.generation,
                error=str(exc),
                again_in_s=attempts.pause_s,
            )
            attempts.error = str(exc)
            attempts.rest(attempts.pause_s)
        else:
            attempts.error = ""
            # Who lets go of it now has found it damaged (VERIFY=lazy), and would again and again.
            attempts.rest(LOAD_PAUSE_MAX_S)

    async def release(self, generation: int, timeout_s: float) -> VitrineError | None:
        """Make the replica let go of a generation; returns why it did not, if so."""
        request = index_pb2.ReleaseGenerationRequest(generation=generation)
        try:
            await self._ask(self._stub.ReleaseGeneration, request, timeout_s)
        except grpc.aio.AioRpcError as exc:
            return from_rpc_error(exc)
        self.generations.pop(generation, None)
        return None

    async def close(self) -> None:
        """Close the connection."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        await self._search.close()
        await self._channel.close(None)

    async def _ask(self, method: Callable[..., Any], request: Message, timeout_s: float) -> Any:
        """Call the replica; when it is closed meanwhile, it is gone.

        gRPC cancels the calls of a channel that is closed, and to whoever awaits one that looks as
        if they were cancelled themselves.

        Raises:
            grpc.aio.AioRpcError: what it answered, or CANCELLED.
        """
        try:
            return await method(request, timeout=timeout_s, metadata=outgoing_metadata())
        except grpc.aio.UsageError as exc:
            raise _closed(self.address) from exc
        except asyncio.CancelledError as exc:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise _closed(self.address) from exc


def _closed(address: str) -> grpc.aio.AioRpcError:
    nothing = grpc.aio.Metadata()
    details = f"the connection to {address} was closed: its name has other addresses now"
    return grpc.aio.AioRpcError(grpc.StatusCode.CANCELLED, nothing, nothing, details, None)


async def release_all(
    replicas: Sequence[Replica], unwanted: Callable[[int], bool], timeout_s: float
) -> None:
    """Make replicas let go of the generations that nobody wants, side by side."""
    releases = [
        replica.release(generation, timeout_s)
        for replica in replicas
        for generation in tuple(replica.generations)
        if unwanted(generation)
    ]
    for error in await asyncio.gather(*releases):
        if error is not None:
            get_logger().warning("a generation was not released", error=str(error))


async def probe_all(replicas: Sequence[Replica], timeout_s: float) -> None:
    """Probe replicas side by side."""
    await asyncio.gather(*(replica.probe(timeout_s) for replica in replicas))
