"""CatalogService on the wire: items read and counted."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc

from gateway.catalog.store import CatalogStore
from gateway.cluster import Cluster
from gateway.items import ItemReader, check_fields, fill_item
from gateway.query import NO_FIELDS
from gateway.settings import GatewaySettings
from protos.vitrine.v1 import catalog_pb2, catalog_pb2_grpc, types_pb2
from rpc.deadlines import Deadline
from rpc.errors import DeadlineExceeded, InvalidArgument, Unavailable, Unimplemented

ITEM_IDS_MAX = 1_000

Context = grpc.aio.ServicerContext[Any, Any]


class CatalogService(catalog_pb2_grpc.CatalogServiceServicer):
    """Answers GetItems and CountItems; writes are not served yet."""

    def __init__(
        self,
        items: ItemReader,
        catalog: CatalogStore,
        cluster: Cluster,
        settings: GatewaySettings,
    ) -> None:
        self._items = items
        self._catalog = catalog
        self._cluster = cluster
        self._settings = settings

    async def GetItems(
        self, request: catalog_pb2.GetItemsRequest, context: Context
    ) -> catalog_pb2.GetItemsResponse:
        """Read items by id."""
        if not 1 <= len(request.item_ids) <= ITEM_IDS_MAX:
            raise InvalidArgument(
                "item_ids", f"{len(request.item_ids)} long", f"1..{ITEM_IDS_MAX} ids"
            )
        check_fields(request.fields)
        deadline = Deadline.of_call(context, self._settings.search_timeout_s)
        found = await self._read(tuple(dict.fromkeys(request.item_ids)), deadline)
        fields = () if tuple(request.fields) == NO_FIELDS else request.fields
        response = catalog_pb2.GetItemsResponse()
        for item_id in request.item_ids:
            if item_id in found:
                fill_item(response.items.add(), found[item_id], fields)
            else:
                response.missing_item_ids.append(item_id)
        return response

    async def CountItems(
        self, request: catalog_pb2.CountItemsRequest, context: Context
    ) -> catalog_pb2.CountItemsResponse:
        """Count the catalogue, or the generation's items that match a filter."""
        deadline = Deadline.of_call(context, self._settings.search_timeout_s)
        if not request.HasField("filter"):
            size = await self._catalog.size()
            return catalog_pb2.CountItemsResponse(items=size.items)
        view = self._cluster.view()
        counts = await self._count(view.generation, request.filter, deadline)
        return catalog_pb2.CountItemsResponse(items=sum(counts), generation=view.generation)

    async def UpsertItems(
        self, request: catalog_pb2.UpsertItemsRequest, context: Context
    ) -> catalog_pb2.UpsertItemsResponse:
        """Refuse: live writes come later."""
        raise Unimplemented("UpsertItems")

    async def DeleteItems(
        self, request: catalog_pb2.DeleteItemsRequest, context: Context
    ) -> catalog_pb2.DeleteItemsResponse:
        """Refuse: live writes come later."""
        raise Unimplemented("DeleteItems")

    async def ListItems(
        self, request: catalog_pb2.ListItemsRequest, context: Context
    ) -> catalog_pb2.ListItemsResponse:
        """Refuse: comes with live writes."""
        raise Unimplemented("ListItems")

    async def TailChanges(
        self, request: catalog_pb2.TailChangesRequest, context: Context
    ) -> AsyncIterator[catalog_pb2.TailChangesResponse]:
        """Refuse: comes with live writes."""
        raise Unimplemented("TailChanges")
        yield  # an async generator, as the wire wants

    async def _read(self, item_ids: Sequence[str], deadline: Deadline) -> dict[str, bytes]:
        try:
            return await self._items.get(item_ids, deadline)
        except TimeoutError as exc:
            raise DeadlineExceeded("attach") from exc

    async def _count(
        self, generation: int, filter_: types_pb2.Filter, deadline: Deadline
    ) -> Sequence[int]:
        """Return each shard's count; a shard that cannot answer fails the whole count."""
        silent = [shard.shard for shard in self._cluster.shards if shard.suspended]
        if silent:
            raise Unavailable("SHARD_DOWN", f"shards {silent} do not answer")
        counts = await asyncio.gather(
            *(
                shard.count(generation, filter_, deadline.remaining_s())
                for shard in self._cluster.shards
            )
        )
        return [count.items_matched for count in counts]
