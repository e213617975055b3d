"""Embeddings of recent queries, bounded by bytes; equal queries in the air share one encoding.

The text of a key is the text that was encoded: the door brings queries into Unicode form NFC with
single spaces before anything else, so two spellings of one query are one key and one encoding.

The encoder of a key is the one that made the embedding, as its answer says. A query is looked up
under the encoder that is expected to answer: where that was replaced, it is encoded afresh.
"""

import asyncio
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from gateway.encoder_client import Embedding
from rpc.deadlines import Alarms

Key = tuple[str, str]

# What an entry takes beside its text and its numbers: the objects, and its place in the table.
# Measured: see the test that holds it against tracemalloc.
_ENTRY_BYTES = 330


@dataclass(slots=True, eq=False)
class _Flight:
    """An encoding that is under way, and how many wait for it; a key may have had one before."""

    encoding: "asyncio.Future[Embedding]"
    num_waiting: int = 0


class EmbeddingCache:
    """An LRU cache with single flight, keyed by (encoder_id, normalized text)."""

    def __init__(self, bytes_max: int) -> None:
        self.hits = 0
        self.misses = 0
        self.shared = 0
        self.bypassed = 0
        self.evictions = 0
        self.size_bytes = 0
        self._bytes_max = bytes_max
        self._alarms = Alarms()
        self._kept: OrderedDict[Key, Embedding] = OrderedDict()
        self._in_the_air: dict[Key, _Flight] = {}

    async def get(
        self,
        key: Key,
        encode: Callable[[], "asyncio.Future[Embedding]"],
        timeout_s: float,
        *,
        bypass: bool = False,
    ) -> Embedding:
        """Return the embedding of a key, calling `encode` when nobody has or does.

        A caller that is cancelled withdraws the encoding only when no other waits for it.

        Args:
            key: the encoder that is expected to answer, and the text.
            encode: starts the encoding; cancelling what it returns withdraws it. Others may share
                it, so unless the cache is bypassed it has to last for the most patient of them.
            timeout_s: how long this caller waits for it.
            bypass: encode afresh, and keep nothing of it.

        Raises:
            TimeoutError: it was not there in time.
        """
        if bypass:
            self.bypassed += 1
            return await self._alarms.within(encode(), timeout_s)
        if (kept := self._kept.get(key)) is not None:
            self._kept.move_to_end(key)
            self.hits += 1
            return replace(kept, cached=True, compute_us=0)
        flight = self._in_the_air.get(key)
        if flight is None or flight.encoding.done():
            self.misses += 1
            flight = self._in_the_air[key] = _Flight(encode())
        else:
            self.shared += 1
        flight.num_waiting += 1
        try:
            embedding = await self._alarms.within(_own(flight.encoding), timeout_s)
        finally:
            self._leave(key, flight)
        self._keep(key, embedding)
        return embedding

    def _keep(self, key: Key, embedding: Embedding) -> None:
        """Keep an embedding under the encoder that made it, and make room for it."""
        # Each answer has a string of its own; one for all entries is enough.
        maker = sys.intern(embedding.encoder_id)
        key = (maker, key[1])
        size = _size_bytes(key, embedding)
        if key in self._kept or size > self._bytes_max:
            return
        # A row of a shared answer would keep the whole answer in memory.
        self._kept[key] = replace(embedding, vector=embedding.vector.copy(), encoder_id=maker)
        self.size_bytes += size
        while self.size_bytes > self._bytes_max:
            oldest, evicted = self._kept.popitem(last=False)
            self.size_bytes -= _size_bytes(oldest, evicted)
            self.evictions += 1

    def _leave(self, key: Key, flight: "_Flight") -> None:
        flight.num_waiting -= 1
        if not flight.num_waiting:
            if self._in_the_air.get(key) is flight:
                del self._in_the_air[key]
            flight.encoding.cancel()


def _own(shared: "asyncio.Future[Embedding]") -> "asyncio.Future[Embedding]":
    """Return a future that ends as the shared one does, and may end sooner without ending it.

    Not asyncio.shield: that breaks when an alarm ends its future in the turn of the loop in which
    the shared one ends.
    """
    own: asyncio.Future[Embedding] = asyncio.get_running_loop().create_future()

    def end(ended: "asyncio.Future[Embedding]") -> None:
        # Read even where nobody waits any more: an error that nobody reads is logged.
        error = None if ended.cancelled() else ended.exception()
        if own.done():
            return
        if ended.cancelled():
            own.cancel()
        elif error is not None:
            own.set_exception(error)
        else:
            own.set_result(ended.result())

    shared.add_done_callback(end)
    return own


def _size_bytes(key: Key, embedding: Embedding) -> int:
    """Return what an entry takes in memory; the encoder_id is one string for all."""
    return _ENTRY_BYTES + sys.getsizeof(key[1]) + embedding.vector.nbytes
