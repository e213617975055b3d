"""Searches a second through the gateway, against the same encode + HNSW called in one process.

In each round: the in-process rate with one thread a core, then the gateway with 1, 4, 16 and 64
callers, on the same cores; the callers' own processor time counts as it is. Every query is another
text, so no cache answers for the encoder. Ratios are per round; the median counts.

    python -m benchmarks.throughput                # sample catalogue, 1, 2 and 4 shards
    python -m benchmarks.throughput --home HOME    # a home built before
"""

import argparse
import asyncio
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc

from benchmarks.deployment import (
    add_home_options,
    homes_of,
    process_addresses,
    queries_of,
    running,
)
from benchmarks.in_process import InProcess, pretty
from benchmarks.recall import ann_recall_at_10
from benchmarks.report import machine, median, spread, write_result
from protos.vitrine.v1 import search_pb2, search_pb2_grpc

RECALL_QUERIES = 200
CALLERS_PER_CHANNEL = 16
# Enough distinct queries for the fastest phase; a phase that ran out would stop short.
QUERIES_A_SECOND_MAX = 1_500


def main() -> None:
    """Measure, print, write."""
    options = _parser().parse_args()
    figures: dict[str, Any] = {"machine": machine(), "runs": []}
    for home in homes_of(options):
        with running(home, options.port) as address:
            figures["runs"].append(measure(home, address, options))
            print(pretty(figures["runs"][-1]))
    print(f"written to {write_result(options.name, figures)}")


def measure(home: Path, address: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one deployment."""
    local, threads = InProcess(home), len(os.sched_getaffinity(0))
    seconds, rounds = options.seconds, options.rounds
    phases = rounds * (len(options.callers) + 1)
    queries = iter(queries_of(home, int(phases * seconds * QUERIES_A_SECOND_MAX) + 10_000))
    recall = asyncio.run(_recall(address, [next(queries) for _ in range(RECALL_QUERIES)]))
    local.searches_a_second(_some(queries, 200), threads, 0.5)
    rates: dict[str, list[float]] = defaultdict(list)
    ratios: dict[int, list[float]] = defaultdict(list)
    latencies_ms: dict[int, list[float]] = defaultdict(list)
    for _ in range(rounds):
        share = int(seconds * QUERIES_A_SECOND_MAX)
        alone = local.searches_a_second(_some(queries, share), threads, seconds)
        rates["in_process"].append(alone)
        for callers in options.callers:
            rate, took_ms = asyncio.run(load(address, queries, callers, seconds))
            rates[f"callers_{callers}"].append(rate)
            ratios[callers].append(rate / alone)
            latencies_ms[callers] += took_ms
    return {
        "items": local.items,
        "shards": len(process_addresses(home)) - 2,
        "ef_search": local.effort.ef_search,
        "ann_recall_at_10": recall,
        "rounds": rounds,
        "seconds_a_phase": seconds,
        "in_process": {"threads": threads, "searches_a_second": median(rates["in_process"])},
        "gateway": [
            {
                "callers": callers,
                "searches_a_second": median(rates[f"callers_{callers}"]),
                "ratio_to_in_process": median(ratios[callers], 2),
                "latency_ms": spread(latencies_ms[callers]),
            }
            for callers in options.callers
        ],
        "to_reach": {"callers": 64, "ratio_to_in_process": 0.5},
    }


async def load(
    address: str,
    queries: Iterator[str],
    callers: int,
    seconds: float,
    like: search_pb2.SearchRequest | None = None,
) -> tuple[float, list[float]]:
    """Return searches a second and each search's milliseconds, callers searching back to back.

    Requests are like one given, but for the text.
    """
    channels = [
        grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        for _ in range(-(-callers // CALLERS_PER_CHANNEL))
    ]
    stubs = [search_pb2_grpc.SearchServiceStub(channel) for channel in channels]
    took_ms: list[float] = []

    def request() -> search_pb2.SearchRequest:
        made = search_pb2.SearchRequest(text=next(queries))
        if like is not None:
            made.MergeFrom(like)
        return made

    await asyncio.gather(*(stub.Search(request()) for stub in stubs))
    started_s = time.perf_counter()
    stop_s = started_s + seconds

    async def call(number: int) -> None:
        search = stubs[number % len(stubs)].Search
        while (sent_s := time.perf_counter()) < stop_s:
            await search(request())
            took_ms.append((time.perf_counter() - sent_s) * 1e3)

    await asyncio.gather(*(call(number) for number in range(callers)))
    rate = len(took_ms) / (time.perf_counter() - started_s)
    for channel in channels:
        await channel.close(None)
    return rate, took_ms


async def _recall(address: str, texts: list[str]) -> float:
    async with grpc.aio.insecure_channel(address) as channel:
        return await ann_recall_at_10(search_pb2_grpc.SearchServiceStub(channel).Search, texts)


def _some(queries: Iterator[str], count: int) -> list[str]:
    return [next(queries) for _ in range(count)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_home_options(parser)
    parser.add_argument("--callers", type=int, nargs="*", default=[1, 4, 16, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds a phase")
    parser.add_argument("--port", type=int, default=7791)
    parser.add_argument("--name", default="throughput", help="name of the result file")
    return parser


if __name__ == "__main__":
    main()
