"""The encoder as the gateway uses it: queries share calls, answers come as arrays."""

import asyncio
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import grpc

from gateway.coalesce import Batch, Coalescer
from gateway.settings import GatewaySettings
from protos.vitrine.v1 import encoder_pb2, encoder_pb2_grpc, types_pb2
from rpc.client import open_channel
from rpc.deadlines import Deadline
from rpc.errors import InvalidArgument, Unavailable, VitrineError, from_rpc_error, is_gone
from rpc.standing_call import StandingCall
from rpc.vectors import Vectors, unpack


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """A query's embedding, (dim,) float32 of unit length, and where it comes from."""

    vector: Vectors
    encoder_id: str
    truncated: bool = False
    compute_us: int = 0
    cached: bool = False


class EncoderClient:
    """Calls the encoder service; remembers what it said of itself.

    Attributes:
        encoder_id: of the encoder that answered last; empty before any did.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self.target = settings.encoder
        self.encoder_id = ""
        self.reachable = False
        self.detail = "not reached yet"
        self.description = encoder_pb2.DescribeEncoderResponse()
        self._texts_max = settings.encode_texts_max
        self._channel = open_channel(settings.encoder, settings.message_bytes_max)
        self._stub = encoder_pb2_grpc.EncoderServiceStub(self._channel)
        # One for each call in flight, so that calls at once go to different replicas.
        self._encode = [self._standing_call() for _ in range(settings.encode_calls_max)]
        self._calls: Coalescer[str, Embedding] = Coalescer(
            "encoder",
            self._encode_batch,
            calls_max=settings.encode_calls_max,
            batch_max=settings.encode_texts_max,
            waiting_max=settings.waiting_max,
        )

    async def probe(self, timeout_s: float) -> None:
        """Ask the encoder what it is."""
        try:
            self.description = await self._stub.DescribeEncoder(
                encoder_pb2.DescribeEncoderRequest(), timeout=timeout_s
            )
        except grpc.aio.AioRpcError as exc:
            self.reachable = False
            self.detail = f"{exc.code().name}: {exc.details()}"
            return
        self.reachable, self.detail = True, ""
        self.encoder_id = self.description.encoder_id
        most = self.description.batch_texts_max or self._texts_max
        self._calls.batch_max = min(self._texts_max, most)

    def encode(self, text: str, deadline: Deadline) -> "asyncio.Future[Embedding]":
        """Return the future embedding of a query text; cancelling it withdraws the text."""
        return self._calls.submit(text, deadline)

    async def close(self) -> None:
        """Cancel calls and close the connection."""
        await self._calls.close()
        for standing in self._encode:
            await standing.close()
        await self._channel.close(None)

    async def _encode_batch(
        self, _: Hashable, batch: Batch[str]
    ) -> Sequence[Embedding | Exception]:
        """Encode several queries in one call; where one of them is refused, each in its own.

        Raises:
            Unavailable: no encoder answers.
            VitrineError: what else the encoder answered.
        """
        try:
            return await self._encode_together(batch)
        except InvalidArgument:
            if len(batch.questions) == 1:
                raise
        return await asyncio.gather(*(self._encode_alone(text) for text in batch.each()))

    async def _encode_alone(self, batch: Batch[str]) -> Embedding | Exception:
        try:
            [embedding] = await self._encode_together(batch)
        except VitrineError as exc:
            return exc
        return embedding

    async def _encode_together(self, batch: Batch[str]) -> Sequence[Embedding]:
        """Encode several queries in one call; once more when the encoder's replica is gone."""
        try:
            response = await self._call(batch)
        except grpc.aio.AioRpcError as exc:
            if not is_gone(exc):
                raise from_rpc_error(exc) from exc
            response = await self._call_again(batch)
        self.encoder_id = response.encoder_id
        rows = unpack(response.embeddings, response.dim)
        truncated = set(response.truncated)
        return [
            Embedding(row, response.encoder_id, place in truncated, response.compute_us)
            for place, row in enumerate(rows)
        ]

    async def _call_again(self, batch: Batch[str]) -> encoder_pb2.EncodeResponse:
        try:
            return await self._call(batch)
        except grpc.aio.AioRpcError as exc:
            if not is_gone(exc):
                raise from_rpc_error(exc) from exc
            raise Unavailable(
                "ENCODER_DOWN",
                f"no encoder answers at {self.target}; "
                "searches by items or by embedding still work",
            ) from exc

    async def _call(self, batch: Batch[str]) -> encoder_pb2.EncodeResponse:
        request = encoder_pb2.EncodeRequest(texts=batch.questions, kind=types_pb2.TEXT_KIND_QUERY)
        idlest = min(self._encode, key=lambda standing: standing.num_asked)
        return await idlest.ask(
            request.SerializeToString(),
            batch.deadline.remaining_s(),
            ",".join(batch.request_ids),
        )

    def _standing_call(self) -> StandingCall[encoder_pb2.EncodeResponse]:
        method = "/vitrine.v1.EncoderService/Encode"
        return StandingCall(self._channel, method, encoder_pb2.EncodeResponse.FromString)
