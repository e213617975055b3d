"""What a call adds to an encoding: by our service, and by the barest servers that there can be.

Three servers, each a process, on gRPC as our services use it (its own engine, uvloop's loop):

    ours    the encoder service: a call of its own, and a message of a standing call
    encode  a handler that calls the same encoder with the text it gets, and nothing else:
            no message to parse, no queue, no bounds, no metrics
    read    a handler that reads as many bytes as the encoder has weights, half of them on each of
            two threads, and does not encode at all

For every text each is asked in turn, and right before it the same work is done in this process.
What a server adds is the difference of the medians, in empty RPCs to our service in the same round:
what `encode` adds nobody can save who serves this encoder with grpc.aio, and `read` tells how much
of that is the weights' passing through the caches.

    python -m benchmarks.encoder_call --bundle INT8_BUNDLE --name mpnet
"""

import rpc.io_engine  # noqa: F401 - before grpc

# isort: split

import argparse
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import uvloop
from tokenizers import Tokenizer

from benchmarks.encoder_load import query_request, running_process, time_us
from benchmarks.encoder_texts import judged_collection, short_texts
from benchmarks.in_process import pretty
from benchmarks.report import machine, median, percentile, spread, write_result
from encoder_service.bundle import MODEL_FILE, load_bundle
from encoder_service.encoder import load_encoder
from encoder_service.layout import Layout
from protos.vitrine.v1 import encoder_pb2, encoder_pb2_grpc
from rpc.eager_accept import eager_server
from rpc.standing_call import StandingCall
from rpc.vectors import pack

SERVICE, METHOD = "benchmark.Bare", "Work"
SPAWN = multiprocessing.get_context("spawn")
TIMEOUT_S = 30.0
WARM_TEXTS = 20

Work = Callable[[bytes], bytes]


def encoding(bundle: Path, layout: Layout) -> Work:
    """Return what takes a text in UTF-8 and returns its embedding."""
    encoder = load_encoder(load_bundle(bundle), layout)
    encoder.warm()
    return lambda text: pack(encoder.encode([text.decode()]))


def reading(bundle: Path, _: Layout) -> Work:
    """Return what reads as many bytes as the bundle's graph has, on two threads, and adds them."""
    words = np.ones((2, (bundle / MODEL_FILE).stat().st_size // 16), np.uint64)
    second = ThreadPoolExecutor(1)

    def read(_: bytes) -> bytes:
        other = second.submit(np.add.reduce, words[1])
        return int(np.add.reduce(words[0]) + other.result()).to_bytes(8, "little")

    return read


WORKS: dict[str, Callable[[Path, Layout], Work]] = {"encode": encoding, "read": reading}


def serve(work: str, bundle: Path, layout: Layout, announce: Any) -> None:
    """Do the work for every call, on the thread that has read it, until killed."""
    uvloop.run(_serve(WORKS[work](bundle, layout), announce))


async def _serve(work: Work, announce: Any) -> None:
    async def unary(request: bytes, _: Any) -> bytes:
        return work(request)

    handlers = {METHOD: grpc.unary_unary_rpc_method_handler(unary)}
    server = eager_server((), (("grpc.so_reuseport", 0),))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    announce.send(f"127.0.0.1:{port}")
    await server.wait_for_termination()


@contextmanager
def bare_server(work: str, bundle: Path, layout: Layout) -> Iterator[str]:
    """Start a server that does one of `WORKS`; yield its address; stop it."""
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=serve, args=(work, bundle, layout, theirs))
    process.start()
    theirs.close()
    try:
        yield ours.recv()
    finally:
        process.kill()
        process.join()


async def measure(
    local: dict[str, Work], service: str, bare: dict[str, str], texts: list[str], rounds: int
) -> dict[str, Any]:
    """Return p50 of each way, and what it adds to the same work in this process, in empty RPCs.

    Args:
        local: each work, in this process.
        service: address of the encoder service.
        bare: address of the bare server of each work.
        texts: asked in turn, each in every way.
        rounds: parts that the texts are cut into; ratios are of medians within one.
    """
    channels = {
        name: grpc.aio.insecure_channel(at) for name, at in {"ours": service, **bare}.items()
    }
    encode = encoder_pb2_grpc.EncoderServiceStub(channels["ours"]).Encode
    standing = StandingCall(
        channels["ours"], "/vitrine.v1.EncoderService/Encode", encoder_pb2.EncodeResponse.FromString
    )
    empty: Any = channels["ours"].unary_unary("/grpc.health.v1.Health/Check", None, None)
    work: dict[str, Any] = {
        name: channels[name].unary_unary(f"/{SERVICE}/{METHOD}", None, None) for name in WORKS
    }

    async def own_call(text: str) -> None:
        await encode(query_request(text))

    async def standing_call(text: str) -> None:
        await standing.ask(query_request(text).SerializeToString(), TIMEOUT_S, "benchmark")

    ways: dict[str, tuple[str, Callable[[str], Any]]] = {
        "ours": ("encode", own_call),
        "ours_standing": ("encode", standing_call),
        "bare_encode": ("encode", lambda text: work["encode"](text.encode())),
        "bare_read": ("read", lambda text: work["read"](text.encode())),
    }
    parts = [texts[start::rounds] for start in range(rounds)]
    found = [await _round(part, ways, local, empty) for part in (texts[:WARM_TEXTS], *parts)][1:]
    await standing.close()
    for channel in channels.values():
        await channel.close(None)
    p50 = [{name: percentile(values, 0.5) for name, values in one.items()} for one in found]
    added = {
        way: [(one[way] - one[f"{way}_in_process"]) / one["empty_rpc"] for one in p50]
        for way in ways
    }
    return {
        "us": {name: spread([us for one in found for us in one[name]]) for name in found[0]},
        "added_us": {
            way: median([one[way] - one[f"{way}_in_process"] for one in p50]) for way in ways
        },
        "added_in_empty_rpcs": {way: median(ratios, 2) for way, ratios in added.items()},
        "rounds": {way: [round(ratio, 2) for ratio in ratios] for way, ratios in added.items()},
    }


async def _round(
    texts: list[str],
    ways: dict[str, tuple[str, Callable[[str], Any]]],
    local: dict[str, Work],
    empty: Any,
) -> dict[str, list[float]]:
    """Return microseconds of each way, of the same work right before it, and of an empty RPC."""
    spent: dict[str, list[float]] = {"empty_rpc": []}
    for text in texts:
        spent["empty_rpc"].append(await time_us(empty(b"")))
        for way, (work, ask) in ways.items():
            started_s = time.perf_counter()
            local[work](text.encode())
            in_process_us = (time.perf_counter() - started_s) * 1e6
            spent.setdefault(f"{way}_in_process", []).append(in_process_us)
            spent.setdefault(way, []).append(await time_us(ask(text)))
    return spent


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--name", required=True, help="results go to encoder_call-NAME.json")
    parser.add_argument("--judgements", type=Path, help="a BEIR folder, for texts")
    parser.add_argument(
        "--layout",
        type=Layout,
        choices=list(Layout),
        default=Layout.LATENCY,
        help="of every encoder here; auto lets each choose by what it measures",
    )
    parser.add_argument("--texts", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(options.bundle / "tokenizer.json"))
    collection, judgements = judged_collection(options.judgements)
    texts = short_texts(tokenizer, collection, options.texts, seed=37)
    with ExitStack() as running:
        service = running.enter_context(
            running_process(options.bundle, VITRINE_ENCODER_LAYOUT=options.layout)
        )[0]
        of = (options.bundle, options.layout)
        bare = {name: running.enter_context(bare_server(name, *of)) for name in WORKS}
        local = {name: work(*of) for name, work in WORKS.items()}
        found = uvloop.run(measure(local, service, bare, texts, options.rounds))
    figures = {"machine": machine(), "judgements": judgements, "layout": options.layout, **found}
    print(pretty(figures))
    print(f"written to {write_result(f'encoder_call-{options.name}', figures)}")


if __name__ == "__main__":
    main()
