"""A bounded queue in front of worker threads: texts of many calls, each text run on its own.

Queries and items wait in separate lanes, and a worker that becomes free takes queries first, so a
query never waits for more than the few item texts that are being encoded already.
"""

import asyncio
import math
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from encoder_service.tokenizer import Tokens
from rpc.errors import InvalidArgument, ResourceExhausted, Unavailable

Vectors = NDArray[np.float32]

# Most texts that a worker takes at once. Few item texts, because queries wait for them.
_QUERY_TEXTS_TAKEN_MAX = 8
_ITEM_TEXTS_TAKEN_MAX = 1


class Lane(Enum):
    """Which queue a call waits in."""

    QUERY = "query"
    ITEM = "item"


class TextEncoder(Protocol):
    """What the workers run; safe to use from several threads."""

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Return the tokens of each text."""

    def embed(self, tokens: Sequence[Tokens]) -> Vectors:
        """Return unit vectors of shape (n, dim)."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """What became of one call's texts."""

    vectors: Vectors
    truncated: tuple[int, ...]
    tokens: int
    queue_us: int
    compute_us: int


class PoolObserver(Protocol):
    """Who is told what the pool does; called from worker threads."""

    def ended(self, lane: Lane, encoded: Encoded) -> None:
        """Tell that a call's texts are encoded."""


@dataclass(slots=True)
class _Call:
    """One call's texts, its rows filled in by whichever workers take them."""

    texts: Sequence[str]
    lane: Lane
    refuse_truncation: bool
    vectors: Vectors
    answer: "asyncio.Future[Encoded]"
    loop: asyncio.AbstractEventLoop
    queued_s: float
    taken: int = 0
    left: int = 0
    tokens: int = 0
    started_s: float = 0.0
    dropped: bool = False
    truncated: list[int] = field(default_factory=list)


class EncoderPool:
    """Worker threads that share one encoder; what the queue cannot hold is refused at once."""

    def __init__(
        self,
        encoder: TextEncoder,
        dim: int,
        *,
        workers: int,
        queue_texts_max: int,
        observer: PoolObserver,
    ) -> None:
        """Start the workers.

        Args:
            encoder: tokenizes and embeds.
            dim: length of a vector.
            workers: texts encoded side by side; 0 takes one a core this process may use.
            queue_texts_max: most texts that may wait in each lane.
            observer: told about each call that ends.
        """
        self._encoder = encoder
        self._dim = dim
        self._workers = workers or len(os.sched_getaffinity(0))
        self._queue_texts_max = queue_texts_max
        self._observer = observer
        self._lanes: dict[Lane, deque[_Call]] = {lane: deque() for lane in Lane}
        self._waiting = dict.fromkeys(Lane, 0)
        self._changed = threading.Condition()
        self._closing = False
        self._threads = [
            threading.Thread(target=self._work, name=f"encode-{number}", daemon=True)
            for number in range(self._workers)
        ]
        for thread in self._threads:
            thread.start()

    async def encode(
        self, texts: Sequence[str], lane: Lane, *, refuse_truncation: bool = False
    ) -> Encoded:
        """Return the texts' vectors. Cancelling it drops the texts that no worker has taken yet.

        Raises:
            ResourceExhausted: the lane is full.
            InvalidArgument: a text is too long and truncation is refused.
            Unavailable: the pool is closed.
        """
        loop = asyncio.get_running_loop()
        call = _Call(
            texts=texts,
            lane=lane,
            refuse_truncation=refuse_truncation,
            vectors=np.empty((len(texts), self._dim), dtype=np.float32),
            answer=loop.create_future(),
            loop=loop,
            queued_s=time.perf_counter(),
            left=len(texts),
        )
        self._admit(call)
        try:
            return await call.answer
        finally:
            if not call.answer.done() or call.answer.cancelled():
                self._drop(call)

    def waiting(self, lane: Lane) -> int:
        """Return how many texts of a lane no worker has taken yet."""
        return self._waiting[lane]

    def close(self) -> None:
        """Let the workers finish what they run, refuse what waits, end the threads."""
        with self._changed:
            self._closing = True
            waiting = [call for calls in self._lanes.values() for call in calls]
            for call in waiting:
                self._forget(call)
            self._changed.notify_all()
        for call in waiting:
            _resolve(call, Unavailable("DRAINING", "the encoder is stopping"))
        for thread in self._threads:
            thread.join()

    def _admit(self, call: _Call) -> None:
        with self._changed:
            if self._closing:
                raise Unavailable("DRAINING", "the encoder is stopping")
            waiting = self._waiting[call.lane]
            if waiting + len(call.texts) > self._queue_texts_max:
                raise ResourceExhausted(
                    f"{waiting} {call.lane.value} texts are waiting to be encoded; "
                    f"at most {self._queue_texts_max} may"
                )
            self._waiting[call.lane] += len(call.texts)
            self._lanes[call.lane].append(call)
            self._changed.notify(min(len(call.texts), self._workers))

    def _work(self) -> None:
        """Take texts and encode them until the pool closes."""
        while (portion := self._take()) is not None:
            call, rows = portion
            try:
                self._encode_rows(call, rows)
            except Exception as exc:
                self._drop(call)
                _resolve(call, exc)

    def _take(self) -> tuple[_Call, range] | None:
        """Wait for texts; return some rows of the call whose turn it is, None when closing."""
        with self._changed:
            while (call := self._next_call()) is None:
                if self._closing:
                    return None
                self._changed.wait()
            count = _share(len(call.texts) - call.taken, call.lane, self._workers)
            rows = range(call.taken, call.taken + count)
            if not call.taken:
                call.started_s = time.perf_counter()
            call.taken += count
            self._waiting[call.lane] -= count
            if call.taken == len(call.texts):
                self._lanes[call.lane].popleft()
            return call, rows

    def _next_call(self) -> _Call | None:
        for lane in (Lane.QUERY, Lane.ITEM):
            if self._lanes[lane]:
                return self._lanes[lane][0]
        return None

    def _encode_rows(self, call: _Call, rows: range) -> None:
        tokens = self._encoder.tokenize(call.texts[rows.start : rows.stop])
        cut = [row for row, entry in zip(rows, tokens, strict=True) if entry.truncated]
        if cut and call.refuse_truncation:
            raise InvalidArgument(
                f"texts[{cut[0]}]", call.texts[cut[0]], "texts that fit into max_tokens tokens"
            )
        for row, entry in zip(rows, tokens, strict=True):
            if call.dropped:
                return
            call.vectors[row] = self._encoder.embed((entry,))[0]
        self._finish_rows(call, cut, sum(entry.ids.size for entry in tokens), len(rows))

    def _finish_rows(self, call: _Call, cut: list[int], tokens: int, count: int) -> None:
        """Count rows as done; the last ones answer the call."""
        with self._changed:
            call.truncated += cut
            call.tokens += tokens
            call.left -= count
            if call.left:
                return
        now_s = time.perf_counter()
        encoded = Encoded(
            vectors=call.vectors,
            truncated=tuple(sorted(call.truncated)),
            tokens=call.tokens,
            queue_us=int((call.started_s - call.queued_s) * 1e6),
            compute_us=int((now_s - call.started_s) * 1e6),
        )
        self._observer.ended(call.lane, encoded)
        _resolve(call, encoded)

    def _drop(self, call: _Call) -> None:
        with self._changed:
            self._forget(call)

    def _forget(self, call: _Call) -> None:
        """Take a call out of its lane, its rows in work excepted; the lock is held."""
        call.dropped = True
        if call.taken < len(call.texts):
            self._waiting[call.lane] -= len(call.texts) - call.taken
            call.taken = len(call.texts)
            self._lanes[call.lane].remove(call)


def _share(left: int, lane: Lane, workers: int) -> int:
    """Return how many of a call's remaining texts one worker takes, so that all get some.

    >>> _share(3, Lane.QUERY, workers=2), _share(64, Lane.QUERY, workers=2)
    (2, 8)
    """
    most = _QUERY_TEXTS_TAKEN_MAX if lane is Lane.QUERY else _ITEM_TEXTS_TAKEN_MAX
    return min(math.ceil(left / workers), most)


def _resolve(call: _Call, outcome: Encoded | Exception) -> None:
    """Hand an outcome to the call's event loop, unless the caller or the loop has gone."""

    def settle() -> None:
        if call.answer.done():
            return
        if isinstance(outcome, Exception):
            call.answer.set_exception(outcome)
        else:
            call.answer.set_result(outcome)

    try:
        call.loop.call_soon_threadsafe(settle)
    except RuntimeError:
        # The loop is closed: nobody waits for this answer any more.
        return
