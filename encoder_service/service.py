"""EncoderService over gRPC: validate, run, answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from encoder_service.encoder import Encoder
from encoder_service.lanes import Lane
from encoder_service.pool import WorkerPool
from encoder_service.reranker import Reranker
from encoder_service.settings import EncoderSettings
from protos.vitrine.v1 import encoder_pb2, encoder_pb2_grpc, types_pb2
from rpc.deadlines import Deadline
from rpc.errors import FailedPrecondition, InvalidArgument, Unavailable, Unimplemented
from rpc.vectors import pack

SERVICE_NAME = encoder_pb2.DESCRIPTOR.services_by_name["EncoderService"].full_name
RERANK_TEXTS_MAX = 1_000

_LANES = {types_pb2.TEXT_KIND_QUERY: Lane.QUERY, types_pb2.TEXT_KIND_ITEM: Lane.ITEM}


@dataclass(frozen=True, slots=True)
class Models:
    """What a service serves once it is warm."""

    encoder: Encoder
    reranker: Reranker | None
    pool: WorkerPool
    reference_cosine: float


class EncoderService(encoder_pb2_grpc.EncoderServiceServicer):
    """Serves one encoder and perhaps a reranker; refuses to until `open`."""

    def __init__(self, settings: EncoderSettings) -> None:
        """Make a service that is still warming."""
        self._settings = settings
        self._models: Models | None = None

    def open(self, models: Models) -> None:
        """Start to answer, with warmed models."""
        self._models = models

    async def DescribeEncoder(
        self, request: encoder_pb2.DescribeEncoderRequest, context: Any
    ) -> encoder_pb2.DescribeEncoderResponse:
        """Say which encoder this is."""
        models = self._opened()
        bundle = models.encoder.bundle
        return encoder_pb2.DescribeEncoderResponse(
            encoder_id=bundle.encoder_id,
            name=bundle.name,
            dim=bundle.dim,
            max_tokens=bundle.max_tokens,
            batch_texts_max=self._settings.batch_texts_max,
            item_template=bundle.item_template,
            quantization=bundle.quantization,
            matryoshka_dims=bundle.matryoshka_dims,
            cpu_features=models.encoder.cpu_features,
            reference_cosine=models.reference_cosine,
            can_rerank=models.reranker is not None,
            verified_here=models.encoder.verified_here,
        )

    async def Encode(
        self, request: encoder_pb2.EncodeRequest, context: Any
    ) -> encoder_pb2.EncodeResponse:
        """Turn texts into embeddings."""
        models = self._opened()
        bundle = models.encoder.bundle
        lane = self._validate(request, bundle.encoder_id)
        prompt = bundle.prompts.query if lane is Lane.QUERY else bundle.prompts.item
        done = await models.pool.run(
            [prompt + text for text in request.texts] if prompt else list(request.texts),
            lane,
            within_s=self._within_s(context),
            refuse_truncation=request.refuse_truncation,
        )
        return encoder_pb2.EncodeResponse(
            embeddings=pack(done.values),
            dim=bundle.dim,
            encoder_id=bundle.encoder_id,
            truncated=done.truncated,
            queue_us=done.queue_us,
            compute_us=done.compute_us,
            tokens=done.tokens,
        )

    async def Rerank(
        self, request: encoder_pb2.RerankRequest, context: Any
    ) -> encoder_pb2.RerankResponse:
        """Score texts against a query."""
        models = self._opened()
        if models.reranker is None:
            raise Unimplemented("Rerank without a reranker bundle")
        self._validate_text("query", request.query)
        self._validate_texts(request.texts, RERANK_TEXTS_MAX)
        done = await models.pool.run(
            [(request.query, text) for text in request.texts],
            Lane.RERANK,
            within_s=self._within_s(context),
            refuse_truncation=request.refuse_truncation,
        )
        return encoder_pb2.RerankResponse(
            scores=done.values.tolist(),
            reranker_id=models.reranker.bundle.encoder_id,
            queue_us=done.queue_us,
            compute_us=done.compute_us,
            truncated=done.truncated,
            tokens=done.tokens,
        )

    def _opened(self) -> Models:
        if self._models is None:
            raise Unavailable("WARMING", "the encoder is still loading")
        return self._models

    def _within_s(self, context: Any) -> float:
        return Deadline.of_call(context, self._settings.encode_timeout_s).remaining_s()

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
        self._validate_texts(request.texts, self._settings.batch_texts_max)
        return lane

    def _validate_texts(self, texts: Sequence[str], most: int) -> None:
        if not 1 <= len(texts) <= most:
            raise InvalidArgument("texts", f"{len(texts)} texts", f"1..{most} texts")
        for row, text in enumerate(texts):
            # The name of a text is only made for one that is refused.
            if not text or text.isspace() or len(text) * 4 > self._settings.text_bytes_max:
                self._validate_text(f"texts[{row}]", text)

    def _validate_text(self, field: str, text: str) -> None:
        if not text or text.isspace():
            raise InvalidArgument(field, text, "a text that is not blank")
        size = len(text.encode())
        if size > self._settings.text_bytes_max:
            allowed = f"at most {self._settings.text_bytes_max} bytes"
            raise InvalidArgument(field, f"{size} bytes long", allowed)
