"""AdminService on the wire: how the cluster is, and moving it between generations."""

from datetime import datetime
from typing import Any

import grpc

from gateway.catalog.store import CatalogStore
from gateway.cluster import Cluster
from gateway.generations import Generations
from gateway.items import ItemReader
from protos.vitrine.v1 import admin_pb2, admin_pb2_grpc, index_pb2
from rpc.active import Active
from rpc.errors import InvalidArgument, VitrineError
from rpc.server import software_version

REASON_BYTES_MAX = 1_000

Context = grpc.aio.ServicerContext[Any, Any]


class AdminService(admin_pb2_grpc.AdminServiceServicer):
    """Describes, loads, promotes, rolls back."""

    def __init__(
        self,
        cluster: Cluster,
        generations: Generations,
        catalog: CatalogStore,
        items: ItemReader,
    ) -> None:
        self._cluster = cluster
        self._generations = generations
        self._catalog = catalog
        self._items = items

    async def DescribeCluster(
        self, request: admin_pb2.DescribeClusterRequest, context: Context
    ) -> admin_pb2.DescribeClusterResponse:
        """Look at everything now and say how it is."""
        await self._cluster.look()
        served = self._cluster.view().generation if self._cluster.ready else 0
        return admin_pb2.DescribeClusterResponse(
            generation=served,
            previous_generation=self._cluster.active.previous,
            encoder=self._encoder_status(),
            shards=self._shard_statuses(),
            catalog=await self._catalog_status(),
            version=software_version(),
            blocked_on=str(self._cluster.blocked_on or ""),
        )

    async def LoadGeneration(
        self, request: admin_pb2.AdminServiceLoadGenerationRequest, context: Context
    ) -> admin_pb2.AdminServiceLoadGenerationResponse:
        """Load a generation on every shard, beside the promoted one."""
        _require_generation(request.generation)
        loaded = await self._generations.load(request.generation)
        return admin_pb2.AdminServiceLoadGenerationResponse(loaded=loaded)

    async def PromoteGeneration(
        self, request: admin_pb2.PromoteGenerationRequest, context: Context
    ) -> admin_pb2.PromoteGenerationResponse:
        """Switch all searches to a generation."""
        _require_generation(request.generation)
        _require_reason("force_reason", request.force_reason)
        active = await self._generations.promote(request.generation, request.force_reason)
        self._items.forget()
        response = admin_pb2.PromoteGenerationResponse(
            generation=active.generation, previous_generation=active.previous
        )
        response.promoted_at.FromDatetime(_promoted_at(active))
        return response

    async def RollbackGeneration(
        self, request: admin_pb2.RollbackGenerationRequest, context: Context
    ) -> admin_pb2.RollbackGenerationResponse:
        """Switch all searches back to the generation before."""
        _require_reason("reason", request.reason)
        active = await self._generations.rollback(request.reason)
        self._items.forget()
        response = admin_pb2.RollbackGenerationResponse(
            generation=active.generation, previous_generation=active.previous
        )
        response.promoted_at.FromDatetime(_promoted_at(active))
        return response

    def _encoder_status(self) -> admin_pb2.EncoderStatus:
        encoder = self._cluster.encoder
        return admin_pb2.EncoderStatus(
            target=encoder.target,
            reachable=encoder.reachable,
            encoder_id=encoder.description.encoder_id,
            name=encoder.description.name,
            detail=encoder.detail,
        )

    def _shard_statuses(self) -> list[admin_pb2.ShardStatus]:
        """Return one entry a replica, in shard order."""
        return [
            admin_pb2.ShardStatus(
                shard=shard.shard,
                target=replica.address,
                reachable=replica.reachable,
                generations=[self._told(entry) for _, entry in sorted(replica.generations.items())],
                resident_bytes=replica.resident_bytes,
                detail=replica.detail,
            )
            for shard in self._cluster.shards
            for replica in shard.replicas
        ]

    def _told(self, entry: index_pb2.LoadedGeneration) -> index_pb2.LoadedGeneration:
        """Return what a shard said of a generation, and whether it was promoted by force."""
        told = index_pb2.LoadedGeneration()
        told.CopyFrom(entry)
        below = entry.gate.ann_recall_at_10 < entry.gate.required_ann_recall_at_10
        told.forced = below and any(
            promotion.generation == entry.generation and promotion.reason
            for promotion in self._cluster.active.history
        )
        return told

    async def _catalog_status(self) -> admin_pb2.CatalogStatus:
        try:
            size = await self._catalog.size()
        except VitrineError as exc:
            return admin_pb2.CatalogStatus(kind=self._catalog.kind, detail=str(exc))
        return admin_pb2.CatalogStatus(
            kind=self._catalog.kind, reachable=True, items=size.items, seq=size.seq
        )


def _require_generation(generation: int) -> None:
    if generation < 1:
        raise InvalidArgument("generation", generation, "1 or larger")


def _require_reason(field: str, reason: str) -> None:
    if len(reason.encode()) > REASON_BYTES_MAX:
        raise InvalidArgument(field, reason, f"at most {REASON_BYTES_MAX} bytes")


def _promoted_at(active: Active) -> datetime:
    return datetime.fromisoformat(active.history[-1].at)
