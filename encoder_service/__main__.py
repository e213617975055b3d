"""Serve one encoder bundle: `python -m encoder_service --bundle DIR`."""

import rpc.io_engine  # noqa: F401 - before grpc

# isort: split

import math
import os
import sys
from functools import partial
from typing import Any

import uvloop

from encoder_service.bundle import load_bundle
from encoder_service.encoder import Encoder, ReferenceCheck, load_encoder
from encoder_service.lanes import Bounds, Lane
from encoder_service.metrics import EncoderMetrics
from encoder_service.pool import Model, WorkerPool
from encoder_service.reranker import PairCheck, Reranker, load_reranker
from encoder_service.service import SERVICE_NAME, EncoderService, Models
from encoder_service.settings import EncoderSettings
from protos.vitrine.v1 import encoder_pb2, encoder_pb2_grpc
from rpc.server import ServiceServer, software_version
from rpc.settings import read_settings
from rpc.telemetry import RpcMetrics, configure_logging, get_logger
from rpc.terminal import CommandError, errors_as_sentences
from rpc.threads import Threads

ROLE = "encoder"


async def serve(settings: EncoderSettings) -> None:
    """Load, verify, warm, serve until told to stop.

    Raises:
        CommandError: the bundle makes other vectors on this processor than it should.
        VitrineError: the bundle is damaged.
        PortInUse: a port is taken.
    """
    rpc_metrics = RpcMetrics(ROLE, software_version())
    metrics = EncoderMetrics(rpc_metrics)
    service = EncoderService(settings)
    state: dict[str, Any] = {"bundle": str(settings.bundle)}

    async def describe() -> dict[str, Any]:
        return state

    server = ServiceServer(ROLE, settings, rpc_metrics, describe)
    encoder_pb2_grpc.add_EncoderServiceServicer_to_server(service, server.grpc)
    encode = (encoder_pb2.EncodeRequest.FromString, service.Encode)
    server.offer_exchange({"/vitrine.v1.EncoderService/Encode": encode})
    loader = Threads("load-encoder", 1)
    opened: list[Models] = []

    async def ready() -> None:
        models, shown = await loader.run(partial(prepare, settings, metrics))
        opened.append(models)
        metrics.watch(models.pool)
        service.open(models)
        state.update(shown)
        await server.set_serving(True)
        get_logger().info("serving", **state)

    try:
        await server.run((SERVICE_NAME,), ready)
    finally:
        for models in opened:
            models.pool.close()
        loader.close()
    if not opened:
        _leave_while_loading()


def _leave_while_loading() -> None:
    """End a drained process whose model is still being loaded.

    An orderly exit would wait for a thread inside onnxruntime, or be aborted by it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def prepare(settings: EncoderSettings, metrics: EncoderMetrics) -> tuple[Models, dict[str, Any]]:
    """Return models that make what their bundles recorded, warm on every worker; and their facts.

    Raises:
        CommandError: they make something else, and the settings do not override that.
        VitrineError: a bundle is damaged.
    """
    encoder = load_encoder(load_bundle(settings.bundle), settings.layout)
    check = _check_encoder(encoder, settings, metrics)
    lanes: dict[Lane, Model] = {Lane.QUERY: encoder, Lane.ITEM: encoder}
    shown = _shown(encoder, check)
    reranker = None
    if settings.reranker_bundle is not None:
        reranker = load_reranker(load_bundle(settings.reranker_bundle))
        lanes[Lane.RERANK] = reranker
        shown |= _shown_reranker(reranker, _check_reranker(reranker, settings, metrics))
    pool = WorkerPool(
        lanes,
        workers=settings.workers,
        bounds=Bounds(settings.queue_texts_max, settings.queue_tokens_max),
        observer=metrics,
        short_s=settings.short_encode_us / 1e6,
    )
    pool.wait_until_warm()
    return Models(encoder, reranker, pool, check.mean), shown


def _check_encoder(
    encoder: Encoder, settings: EncoderSettings, metrics: EncoderMetrics
) -> ReferenceCheck:
    check = encoder.check_references()
    metrics.reference_cosine.set(check.mean)
    metrics.reference_cosine_least.set(check.least)
    if told := check.shortfall(settings):
        _refuse_or_override(settings, metrics, f"{settings.bundle}: {told}")
    return check


def _check_reranker(
    reranker: Reranker, settings: EncoderSettings, metrics: EncoderMetrics
) -> PairCheck:
    check = reranker.check_references()
    metrics.reranker_spearman.set(check.spearman)
    if told := check.shortfall(settings):
        _refuse_or_override(settings, metrics, f"{settings.reranker_bundle}: {told}")
    return check


def _refuse_or_override(settings: EncoderSettings, metrics: EncoderMetrics, told: str) -> None:
    if not settings.serve_below_reference_cosine:
        raise CommandError(
            f"{told}: export a bundle on this machine, or set "
            "VITRINE_ENCODER_SERVE_BELOW_REFERENCE_COSINE=true to serve it anyway"
        )
    metrics.reference_check_overridden.set(1)
    get_logger().error("reference_check_overridden", reason=told)


def _shown(encoder: Encoder, check: ReferenceCheck) -> dict[str, Any]:
    return {
        "encoder_id": encoder.bundle.encoder_id,
        "name": encoder.bundle.name,
        "dim": encoder.bundle.dim,
        "max_tokens": encoder.bundle.max_tokens,
        "quantization": encoder.bundle.quantization,
        "reference_cosine": round(check.mean, 6),
        "reference_cosine_least": round(check.least, 6),
        "cpu_features": ", ".join(encoder.cpu_features),
        "verified_here": encoder.verified_here,
        "every_core_from_tokens": _finite(encoder.session.spread_from),
    }


def _finite(tokens: float) -> int | str:
    return "never" if math.isinf(tokens) else int(tokens)


def _shown_reranker(reranker: Reranker, check: PairCheck) -> dict[str, Any]:
    return {
        "reranker_id": reranker.bundle.encoder_id,
        "reranker_name": reranker.bundle.name,
        "reranker_spearman": round(check.spearman, 6),
        "reranker_largest_difference": round(check.largest_difference, 6),
    }


def main() -> None:
    """Read settings, serve, and say in one sentence what went wrong."""
    with errors_as_sentences():
        settings = read_settings(EncoderSettings)
        # The pool's threads already fill every core.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        configure_logging(ROLE, settings.log_level, settings.log_format)
        uvloop.run(serve(settings))


if __name__ == "__main__":
    main()
