"""Embeddings of recent queries, bounded by bytes; equal queries in the air share one encoding."""

import asyncio
from collections.abc import Callable
from dataclasses import replace

from cachetools import LRUCache

from gateway.encoder_client import Embedding

# Longer texts are rarely asked twice, and the bound below counts on this one.
_TEXT_CHARS_MAX = 256
_ENTRY_OVERHEAD_BYTES = 512 + 4 * _TEXT_CHARS_MAX

Key = tuple[str, str]


class EmbeddingCache:
    """An LRU cache with single flight, keyed by (encoder_id, normalized text)."""

    def __init__(self, bytes_max: int) -> None:
        self.hits = 0
        self.misses = 0
        self._kept: LRUCache[Key, Embedding] = LRUCache(bytes_max, getsizeof=_size_bytes)
        self._in_the_air: dict[Key, asyncio.Future[Embedding]] = {}
        self._num_waiting: dict[Key, int] = {}

    async def get(self, key: Key, encode: Callable[[], "asyncio.Future[Embedding]"]) -> Embedding:
        """Return the embedding of a key, calling `encode` when nobody has or does.

        A caller that is cancelled withdraws the encoding only when no other waits for it.
        """
        if (kept := self._kept.get(key)) is not None:
            self.hits += 1
            return replace(kept, cached=True, compute_us=0)
        self.misses += 1
        encoding = self._in_the_air.get(key)
        if encoding is None or encoding.done():
            encoding = self._in_the_air[key] = encode()
        self._num_waiting[key] = self._num_waiting.get(key, 0) + 1
        try:
            embedding = await asyncio.shield(encoding)
        finally:
            self._leave(key, encoding)
        self._keep(key, embedding)
        return embedding

    @property
    def size_bytes(self) -> int:
        """How much the cache holds now."""
        return int(self._kept.currsize)

    def _keep(self, key: Key, embedding: Embedding) -> None:
        fits = len(key[1]) <= _TEXT_CHARS_MAX and _size_bytes(embedding) <= self._kept.maxsize
        if fits and embedding.encoder_id == key[0]:
            self._kept[key] = embedding

    def _leave(self, key: Key, encoding: "asyncio.Future[Embedding]") -> None:
        self._num_waiting[key] -= 1
        if not self._num_waiting[key]:
            del self._num_waiting[key]
            if self._in_the_air.get(key) is encoding:
                del self._in_the_air[key]
            encoding.cancel()


def _size_bytes(embedding: Embedding) -> int:
    return embedding.vector.nbytes + _ENTRY_OVERHEAD_BYTES
