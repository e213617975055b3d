"""Start an index service: every part is made here once, by hand."""

import rpc.io_engine  # noqa: F401 - before grpc

# isort: split

import asyncio
import sys
from typing import Any

import uvloop
from threadpoolctl import threadpool_limits

from index_service.executor import SearchExecutor
from index_service.generation.verify import Verification
from index_service.memory import MemoryBudget
from index_service.metrics import IndexMetrics
from index_service.planner import PlanLimits
from index_service.service import IndexService
from index_service.settings import IndexSettings
from index_service.shard import Shard, ShardLimits
from index_service.store import GenerationStore
from protos.vitrine.v1 import index_pb2, index_pb2_grpc
from rpc.active import read_active
from rpc.server import ServiceServer, software_version
from rpc.settings import read_settings
from rpc.telemetry import configure_logging
from rpc.terminal import errors_as_sentences

SERVICES = ("vitrine.v1.IndexService",)
# A search holds the GIL between its native parts; the event loop should not wait 5 ms for it.
_GIL_SWITCH_INTERVAL_S = 0.0005


async def serve(settings: IndexSettings) -> None:
    """Serve until told to stop."""
    role = f"shard-{settings.shard}"
    metrics = IndexMetrics(role, software_version())
    plan_limits = PlanLimits(
        rows_a_candidate=settings.rows_a_candidate,
        graph_selectivity_min=settings.graph_selectivity_min,
        ef_filtered_max=settings.ef_filtered_max,
    )
    limits = ShardLimits(
        generations_max=settings.generations_max,
        filters_cached_max=settings.filters_cached_max,
        warm_probes_max=settings.warm_probes_max,
        lock_memory=settings.lock_memory,
    )
    store = GenerationStore(settings.generations, settings.cache_dir)
    budget = MemoryBudget(settings.memory_budget_bytes)
    verification = Verification(settings.verify)
    shard = Shard(settings.shard, store, verification, limits, plan_limits, budget)
    executor = SearchExecutor(settings.search_threads, settings.queue_max)
    metrics.watch(
        "vitrine_index_calls_waiting", "Calls waiting for a thread.", lambda: executor.waiting
    )
    metrics.watch(
        "vitrine_index_memory_estimated_bytes",
        "Memory that the generations held may take; mapped files count where they are locked.",
        lambda: budget.held_bytes,
    )
    service = IndexService(
        shard,
        executor,
        metrics,
        plan_limits,
        settings.search_timeout_s,
        settings.short_search_us,
        settings.recall_sample,
    )

    async def describe() -> dict[str, Any]:
        return {
            "version": software_version(),
            "shard": settings.shard,
            "generations": {
                holding.generation: holding.state.value for holding in shard.holdings()
            },
            "calls_waiting": executor.waiting,
        }

    server = ServiceServer(role, settings, metrics, describe)
    service.on_change = server.set_serving
    index_pb2_grpc.add_IndexServiceServicer_to_server(service, server.grpc)
    search = (index_pb2.IndexServiceSearchRequest.FromString, service.Search)
    server.offer_exchange({"/vitrine.v1.IndexService/Search": search})

    async def ready() -> None:
        active = await asyncio.to_thread(read_active, settings.generations)
        if active.generation:
            await asyncio.to_thread(store.tidy, {active.generation, active.previous})
            await service.load(active.generation)

    try:
        await server.run(SERVICES, ready)
    finally:
        await service.close()


def main() -> None:
    """Read settings, serve, and say in one sentence what went wrong."""
    with errors_as_sentences():
        settings = read_settings(IndexSettings)
        configure_logging(f"shard-{settings.shard}", settings.log_level, settings.log_format)
        sys.setswitchinterval(_GIL_SWITCH_INTERVAL_S)
        # Search threads are one a core already; BLAS threads beside them would fight for it.
        with threadpool_limits(limits=1, user_api="blas"):
            uvloop.run(serve(settings))


if __name__ == "__main__":
    main()
