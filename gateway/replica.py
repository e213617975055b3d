"""One index service process: how to call it, and what it said when it was last looked at."""

import asyncio
from collections.abc import Sequence

import grpc

from gateway.coalesce import Batch
from gateway.question import Question, request_of
from protos.vitrine.v1 import index_pb2, index_pb2_grpc, types_pb2
from rpc.client import open_channel, outgoing_metadata
from rpc.errors import VitrineError, from_rpc_error
from rpc.standing_call import StandingCall

READY = index_pb2.GENERATION_STATE_READY


class Replica:
    """A replica of one shard. Its description is refreshed by `probe`."""

    def __init__(self, address: str, message_bytes_max: int) -> None:
        self.address = address
        self.reachable = False
        self.suspended = False
        self.detail = "not reached yet"
        self.shard: int | None = None
        self.resident_bytes = 0
        self.generations: dict[int, index_pb2.LoadedGeneration] = {}
        self._channel = open_channel(address, message_bytes_max)
        self._stub = index_pb2_grpc.IndexServiceStub(self._channel)
        self._search: StandingCall[index_pb2.IndexServiceSearchResponse] = StandingCall(
            self._channel,
            "/vitrine.v1.IndexService/Search",
            index_pb2.IndexServiceSearchResponse.FromString,
        )

    async def probe(self, timeout_s: float) -> None:
        """Ask the replica what it is. A silent one is suspended until it answers again."""
        try:
            answer = await self._stub.DescribeShard(
                index_pb2.DescribeShardRequest(), timeout=timeout_s
            )
        except grpc.aio.AioRpcError as exc:
            self.reachable = False
            self.suspended = exc.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            self.detail = f"{exc.code().name}: {exc.details()}"
            return
        self.reachable, self.suspended, self.detail = True, False, ""
        self.shard = answer.shard
        self.resident_bytes = answer.resident_bytes
        self.generations = {entry.generation: entry for entry in answer.generations}

    def holds(self, generation: int) -> bool:
        """Tell whether it said that it can search a generation."""
        entry = self.generations.get(generation)
        return entry is not None and entry.state == READY

    async def search(self, batch: Batch[Question]) -> index_pb2.IndexServiceSearchResponse:
        """Search this shard for questions of one group, answered in order."""
        return await self._search.ask(
            request_of(batch.questions),
            batch.deadline.remaining_s(),
            ",".join(batch.request_ids),
        )

    async def get_embeddings(
        self, generation: int, item_ids: Sequence[str], timeout_s: float
    ) -> index_pb2.GetEmbeddingsResponse:
        """Return the stored embeddings of items that this shard holds."""
        request = index_pb2.GetEmbeddingsRequest(generation=generation, item_ids=item_ids)
        response: index_pb2.GetEmbeddingsResponse = await self._stub.GetEmbeddings(
            request, timeout=timeout_s, metadata=outgoing_metadata()
        )
        return response

    async def count(
        self, generation: int, filter_: types_pb2.Filter, timeout_s: float
    ) -> index_pb2.CountResponse:
        """Count the items on this shard that match a filter."""
        request = index_pb2.CountRequest(generation=generation, filter=filter_)
        response: index_pb2.CountResponse = await self._stub.Count(
            request, timeout=timeout_s, metadata=outgoing_metadata()
        )
        return response

    async def load(self, generation: int, timeout_s: float) -> index_pb2.LoadedGeneration:
        """Make the replica load a generation; returns once it can be searched.

        Raises:
            VitrineError: it refused, or could not be reached.
        """
        request = index_pb2.IndexServiceLoadGenerationRequest(generation=generation)
        try:
            answer: index_pb2.IndexServiceLoadGenerationResponse = await self._stub.LoadGeneration(
                request, timeout=timeout_s, metadata=outgoing_metadata()
            )
        except grpc.aio.AioRpcError as exc:
            raise from_rpc_error(exc) from exc
        self.generations[generation] = answer.loaded
        return answer.loaded

    async def release(self, generation: int, timeout_s: float) -> VitrineError | None:
        """Make the replica let go of a generation; returns why it did not, if so."""
        request = index_pb2.ReleaseGenerationRequest(generation=generation)
        try:
            await self._stub.ReleaseGeneration(
                request, timeout=timeout_s, metadata=outgoing_metadata()
            )
        except grpc.aio.AioRpcError as exc:
            return from_rpc_error(exc)
        self.generations.pop(generation, None)
        return None

    async def close(self) -> None:
        """Close the connection."""
        await self._search.close()
        await self._channel.close(None)


async def probe_all(replicas: Sequence[Replica], timeout_s: float) -> None:
    """Probe replicas side by side."""
    await asyncio.gather(*(replica.probe(timeout_s) for replica in replicas))
