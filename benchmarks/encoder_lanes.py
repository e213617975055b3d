"""What bulk work costs a query, and what the wire does: Encode of short queries over gRPC.

Interleaved in one run and by one caller: an empty unary RPC; encoding in this process; Encode over
gRPC of an encoder service that has nothing else to do. Then Encode again while bulk callers keep
every item worker busy with texts of max_tokens tokens.

    python -m benchmarks.encoder_lanes --bundle DIR
"""

import argparse
import asyncio
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import grpc

from benchmarks.encoder_layout import QUERIES
from benchmarks.encoder_load import running_process
from benchmarks.report import machine, spread, write_result
from encoder_service.bundle import load_bundle
from encoder_service.encoder import Encoder, load_encoder
from encoder_service.layout import Layout
from protos.vitrine.v1 import encoder_pb2, encoder_pb2_grpc, types_pb2

BULK_CALLERS = 4
BULK_TEXTS = 4


def main() -> None:
    """Measure, print, write."""
    options = _parser().parse_args()
    figures: dict[str, Any] = {"machine": machine()}
    bundle = load_bundle(options.bundle)
    local = load_encoder(bundle, Layout(options.layout))
    local.warm()
    with running_process(options.bundle, VITRINE_ENCODER_LAYOUT=options.layout) as (address, _):
        figures |= asyncio.run(measure(local, address, options))
    figures |= {"model": bundle.name, "layout": options.layout}
    print(json.dumps(figures, indent=2))
    print(f"written to {write_result(options.name, figures)}")


async def measure(local: Encoder, address: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return times in microseconds."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = encoder_pb2_grpc.EncoderServiceStub(channel)
        empty: Any = channel.unary_unary("/grpc.health.v1.Health/Check", None, None)
        times_us: dict[str, list[float]] = defaultdict(list)
        for number in range(options.queries):
            text = f"{QUERIES[number % len(QUERIES)]} {number}"
            times_us["empty_rpc"].append(await _time_us(empty(b"")))
            started_s = time.perf_counter()
            local.encode([text])
            times_us["in_process"].append((time.perf_counter() - started_s) * 1e6)
            times_us["grpc"].append(await _time_us(_encode(stub, text, times_us)))
        bulk = [
            asyncio.create_task(_bulk(stub, local.bundle.max_tokens)) for _ in range(BULK_CALLERS)
        ]
        await asyncio.sleep(1.0)
        for number in range(options.queries // 2):
            text = f"{QUERIES[number % len(QUERIES)]} {number} again"
            times_us["grpc_beside_bulk_items"].append(await _time_us(_encode(stub, text)))
        for task in bulk:
            task.cancel()
        await asyncio.gather(*bulk, return_exceptions=True)
    long = local.tokenize(["boots " * 2 * local.bundle.max_tokens])[0]
    started_s = time.perf_counter()
    local.run(long)
    times_us["longest_item_alone"].append((time.perf_counter() - started_s) * 1e6)
    us = {name: spread(values) for name, values in times_us.items()}
    added = us["grpc"]["p50"] - us["in_process"]["p50"]
    return {"us": us, "added_in_empty_rpcs": round(added / us["empty_rpc"]["p50"], 2)}


async def _bulk(stub: Any, max_tokens: int) -> None:
    """Keep item texts of the greatest length coming."""
    texts = ["boots " * 2 * max_tokens] * BULK_TEXTS
    while True:
        await stub.Encode(
            encoder_pb2.EncodeRequest(texts=texts, kind=types_pb2.TEXT_KIND_ITEM), timeout=60
        )


async def _encode(stub: Any, text: str, times_us: dict[str, list[float]] | None = None) -> None:
    """Encode a query; note what the service says of its time."""
    request = encoder_pb2.EncodeRequest(texts=[text], kind=types_pb2.TEXT_KIND_QUERY)
    answer = await stub.Encode(request, timeout=60)
    if times_us is not None:
        times_us["grpc_queue"].append(answer.queue_us)
        times_us["grpc_compute"].append(answer.compute_us)


async def _time_us(call: Any) -> float:
    started_s = time.perf_counter()
    await call
    return (time.perf_counter() - started_s) * 1e6


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--layout", choices=[*Layout], default="auto")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--name", default="encoder_lanes", help="name of the result file")
    return parser


if __name__ == "__main__":
    main()
