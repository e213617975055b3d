"""What the service adds to a search: Search over gRPC against encode + search in one process.

Measures, interleaved in one run and by one caller: an empty unary RPC; encode + search of all
shards in this process; Search through the gateway. Prints what Search takes beyond the work itself
in units of one empty RPC, and the stages as the gateway reports them. Every query is another text,
so no cache answers for the encoder.

There are two rulers, both a health check. `plain` is an RPC to a grpc.aio server as grpcio's
documentation sets one up; it is the unit of the goal, since it stays as it is whatever we make of
our servers. `own` is one to a server of ours, which takes about a quarter less: what would be left
if every service did nothing.

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
from benchmarks.plain_server import plain_server
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
        with plain_server() as plain, running(home, options.port) as address:
            figures["runs"].append(asyncio.run(measure(home, address, plain, options)))
            print(pretty(figures["runs"][-1]))
    print(f"written to {write_result(options.name, figures)}")


async def measure(
    home: Path, address: str, plain: str, options: argparse.Namespace
) -> dict[str, Any]:
    """Return the figures of one deployment; `plain` is the address of the plain server."""
    local = InProcess(home)
    addresses = process_addresses(home)
    rounds, each = options.rounds, options.searches
    queries = iter(queries_of(home, rounds * each * 2 + 2 * RECALL_QUERIES))
    channel = grpc.aio.insecure_channel(address)
    search = search_pb2_grpc.SearchServiceStub(channel).Search
    rulers = {"plain": plain, "own": addresses["encoder"]}
    channels = {name: grpc.aio.insecure_channel(target) for name, target in rulers.items()}
    empty: dict[str, Any] = {
        name: one.unary_unary("/grpc.health.v1.Health/Check", None, None)
        for name, one in channels.items()
    }
    recall = await ann_recall_at_10(search, [next(queries) for _ in range(RECALL_QUERIES)])
    times_us: dict[str, list[float]] = defaultdict(list)
    stages_us: dict[str, list[float]] = defaultdict(list)
    added: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        here: dict[str, list[float]] = defaultdict(list)
        for _ in range(each):
            for name, call in empty.items():
                here[f"empty_rpc_{name}"].append(await _time_us(call(b"")))
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
        for name in rulers:
            unit = p50[f"empty_rpc_{name}"]
            added[name].append((p50["search"] - p50["in_process"]) / unit)
        for name, values in here.items():
            times_us[name] += values
    for each_channel in (channel, *channels.values()):
        await each_channel.close(None)
    return {
        "items": local.items,
        "shards": len(addresses) - 2,
        "ef_search": local.effort.ef_search,
        "ann_recall_at_10": recall,
        "searches": rounds * each,
        "us": {name: spread(values) for name, values in times_us.items()},
        "stages_p50_us": {name: median(values) for name, values in stages_us.items()},
        "added_in_empty_rpcs": {
            name: {
                "median_of_rounds": median(ratios, 2),
                "least": round(min(ratios), 2),
                "most": round(max(ratios), 2),
            }
            for name, ratios in added.items()
        }
        | {"to_reach": 5.0},
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
