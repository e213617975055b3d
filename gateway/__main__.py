"""Start a gateway: every part is made here once, by hand."""

import rpc.io_engine  # noqa: F401 - before grpc

# isort: split

import asyncio
from typing import Any

import uvloop

from gateway.admin_service import AdminService
from gateway.catalog.store import StoreLimits, open_catalog
from gateway.catalog_service import CatalogService
from gateway.cluster import Cluster
from gateway.embedding_cache import EmbeddingCache
from gateway.generations import Generations
from gateway.items import ItemReader
from gateway.metrics import GatewayMetrics
from gateway.search import Searcher
from gateway.search_service import SearchService
from gateway.settings import GatewaySettings
from protos.vitrine.v1 import admin_pb2_grpc, catalog_pb2_grpc, search_pb2_grpc
from rpc.server import ServiceServer, software_version
from rpc.settings import read_settings
from rpc.telemetry import configure_logging
from rpc.terminal import errors_as_sentences

SERVICES = ("vitrine.v1.SearchService", "vitrine.v1.CatalogService", "vitrine.v1.AdminService")


async def serve(settings: GatewaySettings) -> None:
    """Serve until told to stop."""
    metrics = GatewayMetrics(software_version())
    catalog = open_catalog(
        settings.catalog, StoreLimits(query_timeout_s=settings.catalog_timeout_s)
    )
    cluster = Cluster(settings)
    embeddings = EmbeddingCache(settings.embedding_cache_bytes)
    items = ItemReader(catalog, settings)
    searcher = Searcher(cluster, embeddings, items, settings)
    generations = Generations(cluster, settings)
    _watch_caches(metrics, embeddings, items)

    async def describe() -> dict[str, Any]:
        return {
            "version": software_version(),
            "generation": cluster.view().generation if cluster.ready else 0,
            "blocked_on": str(cluster.blocked_on or ""),
            "blocked_reason": cluster.blocked_on.reason if cluster.blocked_on else "",
            "encoder": f"{cluster.encoder.target} {cluster.encoder.detail}".strip(),
            "shards": {
                str(shard.shard): [f"{r.address} {r.detail}".strip() for r in shard.replicas]
                for shard in cluster.shards
            },
        }

    server = ServiceServer("gateway", settings, metrics, describe)
    search_pb2_grpc.add_SearchServiceServicer_to_server(
        SearchService(searcher, metrics, settings.search_timeout_s, settings.exact_timeout_s),
        server.grpc,
    )
    catalog_pb2_grpc.add_CatalogServiceServicer_to_server(
        CatalogService(items, catalog, cluster, settings), server.grpc
    )
    admin_pb2_grpc.add_AdminServiceServicer_to_server(
        AdminService(cluster, generations, catalog, items), server.grpc
    )

    async def ready() -> None:
        await cluster.became_ready.wait()
        await server.set_serving(serving=True)

    watching = asyncio.create_task(cluster.watch())
    try:
        await server.run(SERVICES, ready)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await cluster.close()
        await items.close()


def _watch_caches(metrics: GatewayMetrics, embeddings: EmbeddingCache, items: ItemReader) -> None:
    watch, count = metrics.watch, metrics.watch_counter
    hits, misses = "Look-ups that a cache answered.", "Look-ups that a cache could not answer."
    count("vitrine_embedding_cache_hits_total", hits, lambda: embeddings.hits)
    count("vitrine_embedding_cache_misses_total", misses, lambda: embeddings.misses)
    shared = "Look-ups that waited for the encoding of an equal query."
    count("vitrine_embedding_cache_shared_total", shared, lambda: embeddings.shared)
    bypassed = "Queries that asked to be encoded afresh."
    count("vitrine_embedding_cache_bypassed_total", bypassed, lambda: embeddings.bypassed)
    evictions = "Embeddings that made room for others."
    count("vitrine_embedding_cache_evictions_total", evictions, lambda: embeddings.evictions)
    watch("vitrine_embedding_cache_bytes", "Bytes kept.", lambda: embeddings.size_bytes)
    watch("vitrine_item_cache_hits", hits, lambda: items.hits)
    watch("vitrine_item_cache_misses", misses, lambda: items.misses)


def main() -> None:
    """Read settings, serve, and say in one sentence what went wrong."""
    with errors_as_sentences():
        settings = read_settings(GatewaySettings)
        configure_logging("gateway", settings.log_level, settings.log_format)
        uvloop.run(serve(settings))


if __name__ == "__main__":
    main()
