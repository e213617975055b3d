"""EncoderService over gRPC: validate, encode, answer."""

import asyncio
from collections.abc import Sequence
from typing import Any

from encoder_service.encoder import Encoder
from encoder_service.pool import Encoded, EncoderPool, Lane
from encoder_service.settings import EncoderSettings
from protos.vitrine.v1 import encoder_pb2, encoder_pb2_grpc, types_pb2
from rpc.deadlines import Deadline
from rpc.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    Unavailable,
    Unimplemented,
)
from rpc.vectors import pack

SERVICE_NAME = encoder_pb2.DESCRIPTOR.services_by_name["EncoderService"].full_name

_LANES = {types_pb2.TEXT_KIND_QUERY: Lane.QUERY, types_pb2.TEXT_KIND_ITEM: Lane.ITEM}


class EncoderService(encoder_pb2_grpc.EncoderServiceServicer):
    """Serves one encoder; refuses to encode until `open`."""

    def __init__(self, settings: EncoderSettings) -> None:
        """Make a service that is still warming."""
        self._settings = settings
        self._encoder: Encoder | None = None
        self._pool: EncoderPool | None = None
        self._reference_cosine = 0.0

    def open(self, encoder: Encoder, pool: EncoderPool, reference_cosine: float) -> None:
        """Start to answer, with a warmed encoder."""
        self._encoder, self._pool = encoder, pool
        self._reference_cosine = reference_cosine

    async def DescribeEncoder(
        self, request: encoder_pb2.DescribeEncoderRequest, context: Any
    ) -> encoder_pb2.DescribeEncoderResponse:
        """Say which encoder this is."""
        encoder, _ = self._opened()
        bundle = encoder.bundle
        return encoder_pb2.DescribeEncoderResponse(
            encoder_id=bundle.encoder_id,
            name=bundle.name,
            dim=bundle.dim,
            max_tokens=bundle.max_tokens,
            batch_texts_max=self._settings.batch_texts_max,
            item_template=bundle.item_template,
            quantization=bundle.quantization,
            matryoshka_dims=bundle.matryoshka_dims,
            cpu_features=encoder.cpu_features,
            reference_cosine=self._reference_cosine,
            can_rerank=False,
        )

    async def Encode(
        self, request: encoder_pb2.EncodeRequest, context: Any
    ) -> encoder_pb2.EncodeResponse:
        """Turn texts into embeddings."""
        encoder, pool = self._opened()
        lane = self._validate(request, encoder.bundle.encoder_id)
        prompts = encoder.bundle.prompts
        prompt = prompts.query if lane is Lane.QUERY else prompts.item
        texts = [prompt + text for text in request.texts] if prompt else list(request.texts)
        deadline = Deadline.of_call(context, self._settings.encode_timeout_s)
        encoded = await _encode_in_time(pool, texts, lane, request.refuse_truncation, deadline)
        return encoder_pb2.EncodeResponse(
            embeddings=pack(encoded.vectors),
            dim=encoder.bundle.dim,
            encoder_id=encoder.bundle.encoder_id,
            truncated=encoded.truncated,
            queue_us=encoded.queue_us,
            compute_us=encoded.compute_us,
            tokens=encoded.tokens,
        )

    async def Rerank(
        self, request: encoder_pb2.RerankRequest, context: Any
    ) -> encoder_pb2.RerankResponse:
        """Refuse: no reranker bundle can be loaded yet."""
        raise Unimplemented("Rerank")

    def _opened(self) -> tuple[Encoder, EncoderPool]:
        if self._encoder is None or self._pool is None:
            raise Unavailable("WARMING", "the encoder is still loading")
        return self._encoder, self._pool

    def _validate(self, request: encoder_pb2.EncodeRequest, encoder_id: str) -> Lane:
        """Check a request against what the contract allows; return its lane."""
        if request.encoder_id and request.encoder_id != encoder_id:
            raise FailedPrecondition(
                "ENCODER_MISMATCH",
                f"this encoder is {encoder_id}, the caller counts on {request.encoder_id}",
                expected=request.encoder_id,
                got=encoder_id,
            )
        if (lane := _LANES.get(request.kind)) is None:
            raise InvalidArgument("kind", request.kind, "TEXT_KIND_QUERY or TEXT_KIND_ITEM")
        self._validate_texts(request.texts)
        return lane

    def _validate_texts(self, texts: Sequence[str]) -> None:
        most = self._settings.batch_texts_max
        if not 1 <= len(texts) <= most:
            raise InvalidArgument("texts", f"{len(texts)} texts", f"1..{most} texts")
        for row, text in enumerate(texts):
            if not text or text.isspace():
                raise InvalidArgument(f"texts[{row}]", text, "a text that is not blank")
            if len(text) * 4 > self._settings.text_bytes_max:
                self._validate_length(row, text)

    def _validate_length(self, row: int, text: str) -> None:
        size = len(text.encode())
        if size > self._settings.text_bytes_max:
            allowed = f"at most {self._settings.text_bytes_max} bytes"
            raise InvalidArgument(f"texts[{row}]", f"{size} bytes long", allowed)


async def _encode_in_time(
    pool: EncoderPool,
    texts: list[str],
    lane: Lane,
    refuse_truncation: bool,
    deadline: Deadline,
) -> Encoded:
    """Encode before the deadline, or drop what is left of the work.

    Raises:
        DeadlineExceeded: it passed first.
    """
    try:
        async with asyncio.timeout(deadline.remaining_s()):
            return await pool.encode(texts, lane, refuse_truncation=refuse_truncation)
    except TimeoutError as exc:
        raise DeadlineExceeded("encode") from exc
