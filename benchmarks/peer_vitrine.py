"""Vitrine in the place of a peer: asked over gRPC with text, as `benchmarks.throughput` does."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import grpc

from benchmarks.peer_engines import OWN, TOP_K, VALUES_MAX, Effort
from benchmarks.report import percentile, resident_of
from benchmarks.throughput import load
from protos.vitrine.v1 import search_pb2, search_pb2_grpc, types_pb2

FIELDS = ("title", "attributes")
AS_PROMOTED = "as promoted"


class Vitrine:
    """A running home. Searches come with the effort of its gate, or with an ef_search."""

    name = OWN

    def __init__(self, home: Path, address: str, texts: Sequence[str]) -> None:
        """Keep where it listens, and the texts that are searched for."""
        self._home, self._address, self._texts = home, address, texts
        self.about: dict[str, Any] = {
            "versions": {},
            "settings": {"fields": list(FIELDS), "transport": "gRPC, asyncio"},
            "variants": [
                {"name": AS_PROMOTED, "parameter": "", "lowest": 0, "highest": 0},
                {"name": "hnsw", "parameter": "ef_search", "lowest": TOP_K, "highest": VALUES_MAX},
            ],
        }

    def find(self, effort: Effort, start: int, stop: int) -> tuple[list[list[str]], float]:
        """Return the ids found for a range of texts, and the median milliseconds."""
        return asyncio.run(self._find(effort, self._texts[start:stop]))

    def time(self, effort: Effort, callers: int, seconds: float, start: int) -> dict[str, Any]:
        """Return rate, latency and memory while callers search for texts from `start` on."""
        queries = islice(cycle(self._texts), start, None)
        rate, took_ms = asyncio.run(
            load(self._address, queries, callers, seconds, like=request_like(effort))
        )
        return {
            "searches_a_second": round(rate, 2),
            "p50_ms": round(percentile(took_ms, 0.5), 4),
            "p95_ms": round(percentile(took_ms, 0.95), 4),
            "memory": self._memory(),
        }

    def close(self) -> None:
        """Leave the home to whoever started it."""

    async def _find(self, effort: Effort, texts: Sequence[str]) -> tuple[list[list[str]], float]:
        found, took_ms = [], []
        async with grpc.aio.insecure_channel(self._address) as channel:
            search = search_pb2_grpc.SearchServiceStub(channel).Search
            for text in texts:
                request = request_like(effort)
                request.text = text
                sent_s = time.perf_counter()
                response = await search(request)
                took_ms.append((time.perf_counter() - sent_s) * 1e3)
                found.append([result.item_id for result in response.results])
        return found, percentile(took_ms, 0.5)

    def _memory(self) -> dict[str, Any]:
        processes = {entry["name"]: resident_of([entry["pid"]]) for entry in _status(self._home)}
        return {
            "of": "all processes, the encoder's among them",
            **_summed(list(processes.values())),
            "without_encoder": _summed(
                [held for name, held in processes.items() if not name.startswith("encoder")]
            ),
        }


def request_like(effort: Effort) -> search_pb2.SearchRequest:
    """Return a request without its text.

    The gateway's cache of embeddings is passed by: peers have none, and tuning asks repeatedly.
    """
    request = search_pb2.SearchRequest(fields=FIELDS, bypass_embedding_cache=True)
    if effort.variant != AS_PROMOTED:
        request.params.CopyFrom(types_pb2.SearchParams(ef_search=effort.value))
    return request


def _summed(held: Sequence[dict[str, int]]) -> dict[str, int]:
    kinds = ("resident_bytes", "anonymous_bytes")
    return {kind: sum(each[kind] for each in held) for kind in kinds}


def _status(home: Path) -> list[dict[str, Any]]:
    said = subprocess.run(
        [sys.executable, "-m", "cli", "status", "--home", str(home), "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    processes: list[dict[str, Any]] = json.loads(said.stdout)["processes"]
    return processes
