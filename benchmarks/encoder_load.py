"""Load on a running encoder service, from a process of its own.

`python -m benchmarks.encoder_load COMMAND` takes a JSON object and prints one:

    {"do": "rate", "address", "texts", "callers", "seconds"}     texts a second, every text once
    {"do": "overhead", "address", "bundle", "texts", "rounds"}   Encode against encoding in process

It calls as a gateway does: with gRPC reading its sockets itself, on uvloop's event loop.
"""

import rpc.io_engine  # noqa: F401 - before grpc

# isort: split

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import uvloop

from benchmarks.report import median, percentile, spread
from protos.vitrine.v1 import encoder_pb2, encoder_pb2_grpc, types_pb2
from rpc.standing_call import StandingCall
from rpc.terminal import CommandError

ROOT = Path(__file__).parents[1]
CALLERS_PER_CHANNEL = 16
START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 30.0
_SERVING = b"\x08\x01"  # grpc.health.v1.HealthCheckResponse(status=SERVING)
_HEALTH = "/grpc.health.v1.Health/Check"
_ENCODE = "/vitrine.v1.EncoderService/Encode"
_ENCODE_TIMEOUT_S = 30.0


@contextmanager
def running_service(bundle: Path) -> Iterator[str]:
    """Serve a bundle as `running_process` does; yield its address."""
    with running_process(bundle) as (address, _):
        yield address


@contextmanager
def running_process(bundle: Path, **settings: str) -> Iterator[tuple[str, int]]:
    """Serve a bundle in a real encoder process on a free port; yield address and pid once SERVING.

    Args:
        bundle: what to serve.
        settings: environment variables for the process.

    Raises:
        CommandError: it did not start.
    """
    with tempfile.TemporaryDirectory(prefix="vitrine-encoder-") as folder:
        announcement, log = Path(folder) / "announcement.json", Path(folder) / "log"
        command = [sys.executable, "-m", "encoder_service", "--bundle", str(bundle)]
        command += ["--port", "0", "--http-port", "0", "--announce-file", str(announcement)]
        with log.open("wb") as file:
            environment = {**os.environ, "PYTHONPATH": str(ROOT), **settings}
            process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
        try:
            yield _address_once_serving(process, announcement, log), process.pid
        finally:
            _stop(process)


def ask(**command: Any) -> dict[str, Any]:
    """Run a command in a process of its own and return what it found."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.encoder_load"],
        input=json.dumps(command), capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


async def rate(address: str, texts: list[str], callers: int, seconds: float) -> dict[str, Any]:
    """Return texts a second with callers that encode one text after another, back to back."""
    channels = [
        grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        for _ in range(-(-callers // CALLERS_PER_CHANNEL))
    ]
    encoders = [encoder_pb2_grpc.EncoderServiceStub(channel).Encode for channel in channels]
    remaining, took_ms = iter(texts), list[float]()
    for encode in encoders:
        await encode(query_request(next(remaining)))
    started_s = time.perf_counter()

    async def call(number: int) -> None:
        while (sent_s := time.perf_counter()) < started_s + seconds:
            if (text := next(remaining, None)) is None:
                return
            await encoders[number % len(encoders)](query_request(text))
            took_ms.append((time.perf_counter() - sent_s) * 1e3)

    await asyncio.gather(*(call(number) for number in range(callers)))
    spent_s = time.perf_counter() - started_s
    for channel in channels:
        await channel.close(None)
    return {"texts_a_second": len(took_ms) / spent_s, "latency_ms": spread(took_ms)}


async def overhead(address: str, bundle: str, texts: list[str], rounds: int) -> dict[str, Any]:
    """Return Encode, encoding in this process and an empty RPC, in turn, for every text.

    Encode is asked as a call of its own and, as gateways do, over a standing call.
    """
    from encoder_service.bundle import load_bundle
    from encoder_service.encoder import load_encoder
    from encoder_service.layout import Layout

    # The service's own layout, so that what is left is what gRPC and the queue add.
    local = load_encoder(load_bundle(Path(bundle)), Layout.AUTO)
    local.warm()
    spent: dict[str, list[float]] = {
        "empty_rpc": [], "in_process": [], "encode": [], "in_process_again": [], "standing": []
    }  # fmt: skip
    ratios: dict[str, list[float]] = {"encode": [], "standing": []}
    async with grpc.aio.insecure_channel(address) as channel:
        encode = encoder_pb2_grpc.EncoderServiceStub(channel).Encode
        standing = StandingCall(channel, _ENCODE, encoder_pb2.EncodeResponse.FromString)
        empty: Any = channel.unary_unary(_HEALTH, None, None)

        def in_process_us(text: str) -> float:
            started_s = time.perf_counter()
            local.encode([text])
            return (time.perf_counter() - started_s) * 1e6

        each = len(texts) // rounds
        for start in range(0, each * rounds, each):
            here: dict[str, list[float]] = {name: [] for name in spent}
            for text in texts[start : start + each]:
                here["empty_rpc"].append(await time_us(empty(b"")))
                here["in_process"].append(in_process_us(text))
                here["encode"].append(await time_us(encode(query_request(text))))
                here["in_process_again"].append(in_process_us(text))
                message = query_request(text).SerializeToString()
                here["standing"].append(
                    await time_us(standing.ask(message, _ENCODE_TIMEOUT_S, "benchmark"))
                )
            p50 = {name: percentile(values, 0.5) for name, values in here.items()}
            for way, before in (("encode", "in_process"), ("standing", "in_process_again")):
                ratios[way].append((p50[way] - p50[before]) / p50["empty_rpc"])
            for name, values in here.items():
                spent[name] += values
        await standing.close()
    return {
        "us": {name: spread(values) for name, values in spent.items()},
        "added_in_empty_rpcs": median(ratios["encode"], 2),
        "rounds": [round(ratio, 2) for ratio in ratios["encode"]],
        "added_over_standing_call": median(ratios["standing"], 2),
        "rounds_over_standing_call": [round(ratio, 2) for ratio in ratios["standing"]],
    }


async def time_us(call: Any) -> float:
    """Return the microseconds until a call is answered."""
    started_s = time.perf_counter()
    await call
    return (time.perf_counter() - started_s) * 1e6


def query_request(text: str) -> encoder_pb2.EncodeRequest:
    """Return a request for the embedding of one query."""
    return encoder_pb2.EncodeRequest(texts=[text], kind=types_pb2.TEXT_KIND_QUERY)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a process, by force when it does not listen."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _address_once_serving(process: subprocess.Popen[bytes], announcement: Path, log: Path) -> str:
    stop_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < stop_s and process.poll() is None:
        if announcement.exists():
            address: str = json.loads(announcement.read_bytes())["address"]
            if _is_serving(address):
                return address
        time.sleep(0.1)
    last = log.read_text(errors="replace").strip().splitlines()[-1:]
    raise CommandError(f"the encoder service did not start: {' '.join(last) or 'no word from it'}")


def _is_serving(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        check: Any = channel.unary_unary(_HEALTH, None, None)
        try:
            return bool(check(b"", timeout=5) == _SERVING)
        except grpc.RpcError:
            return False


def main() -> None:
    """Do what stdin asks for."""
    command = json.loads(sys.stdin.read())
    work: Any = {"rate": rate, "overhead": overhead}[command.pop("do")]
    print(json.dumps(uvloop.run(work(**command))))


if __name__ == "__main__":
    main()
