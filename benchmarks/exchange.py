"""What a message of a stream that is open already costs, against a call of its own.

Servers that answer with what they are asked, each a process, as our services are served; one
asker, one at a time and four servers side by side, in rounds: over TCP, over Unix domain sockets,
and over TCP with gRPC's event engine on both sides. Prints p50 in microseconds. See
docs/adr/0008-standing-calls.md and 0019-grpc-reads-its-sockets-itself.md.

    python -m benchmarks.exchange
"""

import argparse
import asyncio
import multiprocessing
import os
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import uvloop

from benchmarks.in_process import pretty
from benchmarks.report import machine, median, percentile, write_result
from rpc.eager_accept import eager_server
from rpc.io_engine import EXPERIMENTS

SERVERS = 4
BODY = bytes(1_600)  # about what a shard is asked
SERVICE, UNARY, STREAM = "benchmark.Echo", "Unary", "Stream"
WARM = 50
SPAWN = multiprocessing.get_context("spawn")
# Over a Unix domain socket or not, and what gRPC is told of its engine.
WAYS = {"tcp": (False, EXPERIMENTS), "unix": (True, EXPERIMENTS), "tcp_event_engine": (False, "")}


def serve(address: str, announce: Any) -> None:
    """Answer with the request, until killed."""
    uvloop.run(_serve(address, announce))


async def _serve(address: str, announce: Any) -> None:
    async def unary(request: bytes, _: Any) -> bytes:
        return request

    async def stream(_: Any, context: Any) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
            await context.write(message)

    handlers = {
        UNARY: grpc.unary_unary_rpc_method_handler(unary),
        STREAM: grpc.stream_stream_rpc_method_handler(stream),
    }
    server = eager_server((), (("grpc.so_reuseport", 0),))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port(address)
    await server.start()
    announce.send(port)
    await server.wait_for_termination()


@contextmanager
def running(folder: Path, *, unix: bool) -> Iterator[list[str]]:
    """Start the servers; yield their addresses."""
    processes, addresses = [], []
    for number in range(SERVERS):
        socket = f"unix:{folder}/{number}.sock"
        ours, theirs = SPAWN.Pipe()
        process = SPAWN.Process(target=serve, args=(socket if unix else "127.0.0.1:0", theirs))
        process.start()
        processes.append(process)
        port = ours.recv()
        addresses.append(socket if unix else f"127.0.0.1:{port}")
    try:
        yield addresses
    finally:
        for process in processes:
            process.kill()
            process.join()


def ask_all(addresses: Sequence[str], asks: int) -> dict[str, float]:
    """Return p50 of each way to ask, in microseconds."""
    return uvloop.run(measure(addresses, asks))


async def measure(addresses: Sequence[str], asks: int) -> dict[str, float]:
    """Return p50 of each way to ask, in microseconds."""
    channels = [grpc.aio.insecure_channel(address) for address in addresses]
    calls: list[Any] = [one.unary_unary(f"/{SERVICE}/{UNARY}", None, None) for one in channels]
    opened: list[Any] = [one.stream_stream(f"/{SERVICE}/{STREAM}", None, None) for one in channels]
    streams = [open_stream() for open_stream in opened]

    async def message(stream: Any) -> None:
        await stream.write(BODY)
        await stream.read()

    async def call(unary: Any) -> None:
        await unary(BODY)

    found = {
        "call": await _p50_us(lambda: call(calls[0]), asks),
        "message": await _p50_us(lambda: message(streams[0]), asks),
        "4_calls": await _p50_us(lambda: asyncio.gather(*map(call, calls)), asks),
        "4_messages": await _p50_us(lambda: asyncio.gather(*map(message, streams)), asks),
    }
    for stream in streams:
        stream.cancel()
    for channel in channels:
        await channel.close(None)
    return found


async def _p50_us(ask: Callable[[], Awaitable[Any]], asks: int) -> float:
    spent_us = []
    for _ in range(WARM + asks):
        started_s = time.perf_counter()
        await ask()
        spent_us.append((time.perf_counter() - started_s) * 1e6)
    return percentile(spent_us[WARM:], 0.5)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--asks", type=int, default=500, help="of each way, a round")
    options = parser.parse_args()
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
    for _ in range(options.rounds):
        for name, (unix, experiments) in WAYS.items():
            # Read by gRPC when a process imports it: so the asker has one of its own, too.
            os.environ["GRPC_EXPERIMENTS"] = experiments
            with (
                tempfile.TemporaryDirectory() as folder,
                running(Path(folder), unix=unix) as addresses,
                ProcessPoolExecutor(1, SPAWN) as asker,
            ):
                rounds[name].append(asker.submit(ask_all, addresses, options.asks).result())
    figures = {
        "machine": machine(),
        "p50_us": {
            name: {way: median([one[way] for one in found]) for way in found[0]}
            for name, found in rounds.items()
        },
    }
    print(pretty(figures))
    print(f"written to {write_result('exchange', figures)}")


if __name__ == "__main__":
    main()
