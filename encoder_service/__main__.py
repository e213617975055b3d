"""Serve one encoder bundle: `python -m encoder_service --bundle DIR`."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvloop

from encoder_service.bundle import load_bundle
from encoder_service.encoder import Encoder, ReferenceCheck, load_encoder
from encoder_service.metrics import EncoderMetrics
from encoder_service.pool import EncoderPool
from encoder_service.service import SERVICE_NAME, EncoderService
from encoder_service.settings import EncoderSettings
from protos.vitrine.v1 import encoder_pb2, encoder_pb2_grpc
from rpc.server import ServiceServer, software_version
from rpc.settings import read_settings
from rpc.telemetry import RpcMetrics, configure_logging, get_logger
from rpc.terminal import CommandError, errors_as_sentences

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
    loader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="load-encoder")
    pools: list[EncoderPool] = []

    async def ready() -> None:
        loop = asyncio.get_running_loop()
        encoder, check = await loop.run_in_executor(loader, prepare, settings, metrics)
        pool = EncoderPool(
            encoder,
            encoder.bundle.dim,
            workers=settings.workers,
            queue_texts_max=settings.queue_texts_max,
            observer=metrics,
        )
        pools.append(pool)
        metrics.watch(pool)
        service.open(encoder, pool, check.mean)
        state.update(_shown(encoder, check))
        await server.set_serving(True)
        get_logger().info("serving", **state)

    try:
        await server.run((SERVICE_NAME,), ready)
    finally:
        for pool in pools:
            pool.close()
        loader.shutdown(wait=True)


def prepare(settings: EncoderSettings, metrics: EncoderMetrics) -> tuple[Encoder, ReferenceCheck]:
    """Return a warmed encoder whose vectors are the ones its bundle recorded.

    Raises:
        CommandError: they are not, and the settings do not override that.
        VitrineError: the bundle is damaged.
    """
    encoder = load_encoder(load_bundle(settings.bundle))
    encoder.warm()
    check = encoder.check_references()
    metrics.reference_cosine.set(check.mean)
    if check.mean < settings.reference_cosine_min:
        _refuse_or_override(settings, metrics, check)
    return encoder, check


def _refuse_or_override(
    settings: EncoderSettings, metrics: EncoderMetrics, check: ReferenceCheck
) -> None:
    told = (
        f"{settings.bundle}: vectors made on this processor have a mean cosine of {check.mean:.4f} "
        f"to the recorded ones; at least {settings.reference_cosine_min} is needed"
    )
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
        "cpu_features": ", ".join(encoder.cpu_features),
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
