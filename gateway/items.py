"""Items of the catalogue for results, cut to the fields asked.

What must be waited for is read together and kept a while.
"""

import asyncio
from collections.abc import Hashable, Mapping, Sequence

from cachetools import TTLCache

from gateway.catalog.store import CatalogStore
from gateway.coalesce import Batch, Coalescer
from gateway.query import NO_FIELDS
from gateway.settings import GatewaySettings
from protos.vitrine.v1 import types_pb2
from rpc.deadlines import Alarms, Deadline
from rpc.errors import InvalidArgument

FIELD_NAMES = ("title", "texts", "attributes", "metadata")
MAPS = ("texts", "attributes")
_FIELDS_MAX = 64
_ENTRY_OVERHEAD_BYTES = 256


class ItemReader:
    """Reads serialized items by id; concurrent reads share a query to the catalogue."""

    def __init__(self, catalog: CatalogStore, settings: GatewaySettings) -> None:
        self.hits = 0
        self.misses = 0
        self._num_forgotten = 0
        self._catalog = catalog
        self._alarms = Alarms()
        self._kept: TTLCache[str, bytes] = TTLCache(
            settings.item_cache_bytes,
            ttl=settings.item_cache_ttl_s,
            getsizeof=lambda item: len(item) + _ENTRY_OVERHEAD_BYTES,
        )
        self._reads: Coalescer[Sequence[str], dict[str, bytes]] = Coalescer(
            "catalogue",
            self._read,
            calls_max=2,
            batch_max=64,
            waiting_max=settings.waiting_max,
        )

    async def get(self, item_ids: Sequence[str], deadline: Deadline) -> dict[str, bytes]:
        """Return the serialized items by id; unknown ids are absent.

        Raises:
            Unavailable: the catalogue is down.
            TimeoutError: it did not answer by the deadline.
        """
        if (items := self._catalog.items_at_hand(item_ids)) is not None:
            return items
        found = {item_id: kept for item_id in item_ids if (kept := self._kept.get(item_id))}
        missing = [item_id for item_id in item_ids if item_id not in found]
        self.hits += len(found)
        self.misses += len(missing)
        if missing:
            reading = self._reads.submit(missing, deadline)
            read: dict[str, bytes] = await self._alarms.within(reading, deadline.remaining_s())
            found |= read
        return found

    def forget(self) -> None:
        """Drop what is kept, so that the next reads see the catalogue as it is."""
        self._num_forgotten += 1
        self._kept.clear()

    async def close(self) -> None:
        """Cancel reads and close the catalogue."""
        self._alarms.close()
        await self._reads.close()
        await self._catalog.close()

    async def _read(self, _: Hashable, batch: Batch[Sequence[str]]) -> Sequence[dict[str, bytes]]:
        wanted = {item_id for item_ids in batch.questions for item_id in item_ids}
        items = await self._catalog.get_items(list(wanted))
        # Two turns of the loop on: in the next one, who asked goes on with what was read.
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, self._keep, items, self._num_forgotten)
        return [
            {item_id: items[item_id] for item_id in item_ids if item_id in items}
            for item_ids in batch.questions
        ]

    def _keep(self, items: Mapping[str, bytes], num_forgotten: int) -> None:
        """Keep what was read, unless it is to be forgotten already."""
        if num_forgotten != self._num_forgotten:
            return
        for item_id, item in items.items():
            if len(item) + _ENTRY_OVERHEAD_BYTES <= self._kept.maxsize:
                self._kept[item_id] = item


def check_fields(fields: Sequence[str]) -> None:
    """Refuse names that no item has.

    Raises:
        InvalidArgument: an unknown field, "none" beside others, or too many.

    >>> check_fields(["title", "attributes.brand"])
    """
    allowed = "title, texts, texts.NAME, attributes, attributes.NAME, metadata, or none alone"
    if len(fields) > _FIELDS_MAX:
        raise InvalidArgument("fields", f"{len(fields)} names", f"at most {_FIELDS_MAX}")
    if tuple(fields) == NO_FIELDS:
        return
    for place, field in enumerate(fields):
        head, dot, name = field.partition(".")
        if head not in FIELD_NAMES or (dot and (head not in MAPS or not name)):
            raise InvalidArgument(f"fields[{place}]", field, allowed)


def fill_item(target: types_pb2.Item, serialized: bytes, fields: Sequence[str]) -> None:
    """Set `target` to the item, with only the fields asked for; no fields means all."""
    if not fields:
        target.MergeFromString(serialized)
        return
    whole = types_pb2.Item.FromString(serialized)
    target.item_id = whole.item_id
    for field in fields:
        head, _, name = field.partition(".")
        if head == "title":
            target.title = whole.title
        elif head == "metadata":
            target.metadata.MergeFrom(whole.metadata)
        elif head == "texts":
            _copy_texts(target, whole, name)
        elif head == "attributes":
            _copy_attributes(target, whole, name)


def _copy_texts(target: types_pb2.Item, whole: types_pb2.Item, name: str) -> None:
    for key in (name,) if name else tuple(whole.texts):
        if key in whole.texts:
            target.texts[key] = whole.texts[key]


def _copy_attributes(target: types_pb2.Item, whole: types_pb2.Item, name: str) -> None:
    for key in (name,) if name else tuple(whole.attributes):
        if key in whole.attributes:
            target.attributes[key].CopyFrom(whole.attributes[key])
