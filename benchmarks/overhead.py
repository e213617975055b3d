"""What the service adds to a search: Search over gRPC against encode + search in one process.

Measures, interleaved in one run and by one caller: an empty unary RPC; encode + search of all
shards in this process; Search through the gateway. Prints what Search takes beyond the work itself
in units of one empty RPC, and the stages as the gateway reports them. Every query is another text,
so no cache answers for the encoder.

    python -m benchmarks.overhead                  # sample catalogue, 1, 2 and 4 shards
    python -m benchmarks.overhead --home HOME      # a home built before
"""

import argparse
import asyncio
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import faiss
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
from benchmarks.report import machine, median, percentile, spread, write_result
from protos.vitrine.v1 import search_pb2, search_pb2_grpc

STAGES = (
    "embed_us",
    "search_us",
    "merge_us",
    "attach_us",
    "encoder_compute_us",
    "shard_compute_us",
)
RECALL_QUERIES = 200


def main() -> None:
    """Measure, print, write."""
    options = _parser().parse_args()
    faiss.omp_set_num_threads(1)
    figures: dict[str, Any] = {"machine": machine(), "runs": []}
    for home in homes_of(options):
        with running(home, options.port) as address:
            figures["runs"].append(asyncio.run(measure(home, address, options)))
            print(pretty(figures["runs"][-1]))
    print(f"written to {write_result(options.name, figures)}")


async def measure(home: Path, address: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one deployment."""
    local = InProcess(home)
    addresses = process_addresses(home)
    rounds, each = options.rounds, options.searches
    queries = iter(queries_of(home, rounds * each * 2 + 2 * RECALL_QUERIES))
    channel = grpc.aio.insecure_channel(address)
    search = search_pb2_grpc.SearchServiceStub(channel).Search
    health = grpc.aio.insecure_channel(addresses["encoder"])
    empty: Any = health.unary_unary("/grpc.health.v1.Health/Check", None, None)
    recall = await ann_recall_at_10(search, [next(queries) for _ in range(RECALL_QUERIES)])
    times_us: dict[str, list[float]] = defaultdict(list)
    stages_us: dict[str, list[float]] = defaultdict(list)
    ratios: list[float] = []
    for _ in range(rounds):
        here: dict[str, list[float]] = defaultdict(list)
        for _ in range(each):
            here["empty_rpc"].append(await _time_us(empty(b"")))
            text = next(queries)
            started_s = time.perf_counter()
            local.search(text)
            here["in_process"].append((time.perf_counter() - started_s) * 1e6)
            started_s = time.perf_counter()
            answer = await search(search_pb2.SearchRequest(text=next(queries)))
            here["search"].append((time.perf_counter() - started_s) * 1e6)
            for stage in STAGES:
                stages_us[stage].append(getattr(answer.timing, stage))
        p50 = {name: percentile(values, 0.5) for name, values in here.items()}
        ratios.append((p50["search"] - p50["in_process"]) / p50["empty_rpc"])
        for name, values in here.items():
            times_us[name] += values
    await channel.close(None)
    await health.close(None)
    return {
        "items": local.items,
        "shards": len(addresses) - 2,
        "ef_search": local.effort.ef_search,
        "ann_recall_at_10": recall,
        "searches": rounds * each,
        "us": {name: spread(values) for name, values in times_us.items()},
        "stages_p50_us": {name: median(values) for name, values in stages_us.items()},
        "added_in_empty_rpcs": {
            "median_of_rounds": median(ratios, 2),
            "least": round(min(ratios), 2),
            "most": round(max(ratios), 2),
            "to_reach": 5.0,
        },
    }


async def _time_us(call: Any) -> float:
    started_s = time.perf_counter()
    await call
    return (time.perf_counter() - started_s) * 1e6


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_home_options(parser)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--searches", type=int, default=150, help="searches a round")
    parser.add_argument("--port", type=int, default=7790)
    parser.add_argument("--name", default="overhead", help="name of the result file")
    return parser


if __name__ == "__main__":
    main()
