"""Worker threads behind a bounded queue: texts of many calls, each text run on its own.

Every lane has threads of its own, and those of lower lanes run at a lower priority of the operating
system. So a query is not held up by the item texts that are being run, however long they are: the
kernel takes the core away from them. Texts of a lower lane are only begun while none of a higher
lane waits.

A short query that finds the pool idle is run where it arrives, by the event loop, which spares it
the way to a thread and back.
"""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from encoder_service.lanes import Bounds, Call, Lane, Lanes
from encoder_service.layout import usable_cores
from encoder_service.tokenizer import Text, Tokens
from rpc.deadlines import Alarms
from rpc.errors import DeadlineExceeded, InvalidArgument, Unavailable

# A call of at most so many characters is tokenized where it arrives: that takes less time than to
# hand it over, and its tokens are counted before it is let in.
_CHARS_AT_THE_DOOR = 512
# A query that comes sooner than this after another one has ended was waiting for it, and others may
# be behind it: only a thread lets the event loop see them.
_IDLE_S = 0.0005
# How much nicer than the process the threads of each lane are to the others (nice(2)).
_NICEST = 19
_NICENESS = {Lane.QUERY: 0, Lane.RERANK: 5, Lane.ITEM: 10}


class Model(Protocol):
    """What the workers run; safe to use from several threads."""

    @property
    def width(self) -> tuple[int, ...]:
        """Return the shape of one text's result."""

    def estimate(self, text: Text) -> int:
        """Return about how many tokens a text has."""

    def tokenize(self, texts: Sequence[Text]) -> list[Tokens]:
        """Return the tokens of each text."""

    def run(self, tokens: Tokens, *, alone: bool) -> Any:
        """Return one text's result."""

    def warm(self) -> None:
        """Run once at each length."""


@dataclass(frozen=True, slots=True)
class Done:
    """What became of one call's texts: float32 of shape (n, *width)."""

    values: NDArray[np.float32]
    truncated: tuple[int, ...]
    tokens: int
    queue_us: int
    compute_us: int


class PoolObserver(Protocol):
    """Who is told what the pool does."""

    def ended(self, lane: Lane, done: Done) -> None:
        """Tell that a call's texts are run; on the event loop."""

    def dropped(self, lane: Lane, texts: int) -> None:
        """Tell that texts will not be run, because their caller has left or their call failed.

        Called from any thread.
        """


class WorkerPool:
    """Threads that share models; what the queue cannot hold is refused at once."""

    def __init__(
        self,
        models: Mapping[Lane, Model],
        *,
        workers: int,
        bounds: Bounds,
        observer: PoolObserver,
        short_s: float = 0.0,
    ) -> None:
        """Start the workers; they warm themselves before they take anything.

        Args:
            models: what runs the texts of each lane.
            workers: texts of one lane run side by side; 0 takes one a core this process may use.
            bounds: what may wait in each lane.
            observer: told about each call that ends.
            short_s: a lone query that is expected to take at most so many seconds is run by the
                event loop.
        """
        self._models = models
        self._observer = observer
        self._short_s = short_s
        self._idle_since_s = 0.0
        self._lock = threading.Lock()
        self._lanes = Lanes(bounds, workers or usable_cores(), observer.dropped)
        self._ready = {lane: threading.Condition(self._lock) for lane in models}
        self._running = dict.fromkeys(Lane, 0)
        self._alarms = Alarms()
        self._outbox: list[tuple[Call, Done | Exception]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = False
        self._warming = len(models) * (workers or usable_cores())
        self._warm = threading.Event()
        self._failure: Exception | None = None
        self._threads = [
            threading.Thread(target=self._work, args=(lane,), name=f"{lane.label}-{number}")
            for lane in models
            for number in range(workers or usable_cores())
        ]
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    def wait_until_warm(self) -> None:
        """Block until every worker has run every length once."""
        self._warm.wait()
        if self._failure is not None:
            raise self._failure

    async def run(
        self,
        texts: Sequence[Text],
        lane: Lane,
        *,
        within_s: float = float("inf"),
        refuse_truncation: bool = False,
    ) -> Done:
        """Return the texts' values. Cancelling it drops the texts that no worker has taken yet.

        Args:
            texts: what to run; pairs in the lane RERANK.
            lane: where to wait.
            within_s: seconds after which nobody wants the answer any more.
            refuse_truncation: whether a text that is too long is an error.

        Raises:
            ResourceExhausted: the lane is full.
            InvalidArgument: a text is too long and truncation is refused.
            DeadlineExceeded: the time was over first.
            Unavailable: the pool is closed.
        """
        loop = asyncio.get_running_loop()
        call = self._call_of(texts, lane, within_s, refuse_truncation, loop.create_future())
        for row, tokens in enumerate(call.tokens):
            _require_length(call, row, tokens)
        if self._begin_here(call):
            return self._run_here(call)
        self._admit(call, loop)
        try:
            done: Done = await self._alarms.within(call.answer, within_s)
        except TimeoutError as exc:
            raise DeadlineExceeded("encode") from exc
        finally:
            if not call.answer.done() or call.left:
                self._drop(call)
        return done

    def waiting_texts(self, lane: Lane) -> int:
        """Return how many texts of a lane no worker has taken yet."""
        return self._lanes.texts[lane]

    def waiting_tokens(self, lane: Lane) -> int:
        """Return how many tokens those texts have, partly as estimated."""
        return self._lanes.tokens[lane]

    def close(self) -> None:
        """Let the workers finish what they run, refuse what waits, end the threads."""
        with self._lock:
            self._closing = True
            for call in list(self._lanes.waiting()):
                self._lanes.forget(call)
                self._send(call, Unavailable("DRAINING", "the encoder is stopping"))
            for ready in self._ready.values():
                ready.notify_all()
        for thread in self._threads:
            thread.join()

    def _call_of(
        self,
        texts: Sequence[Text],
        lane: Lane,
        within_s: float,
        refuse_truncation: bool,
        answer: "asyncio.Future[Done]",
    ) -> Call:
        model = self._models[lane]
        arrived_s = time.perf_counter()
        tokens: Sequence[Tokens] = ()
        if sum(map(_num_chars, texts)) <= _CHARS_AT_THE_DOOR:
            tokens = model.tokenize(texts)
            costs = [entry.ids.size for entry in tokens]
        else:
            costs = [model.estimate(text) for text in texts]
        queued_s = time.perf_counter()
        return Call(
            lane=lane,
            texts=texts,
            tokens=tokens,
            costs=costs,
            rows=np.empty((len(texts), *model.width), dtype=np.float32),
            answer=answer,
            refuse_truncation=refuse_truncation,
            queued_s=queued_s,
            expires_s=arrived_s + within_s,
            tokenize_s=queued_s - arrived_s,
            left=len(texts),
        )

    def _begin_here(self, call: Call) -> bool:
        """Tell whether the event loop runs a call itself; it is begun then."""
        if call.lane is not Lane.QUERY or len(call.tokens) != 1 or not self._short_s:
            return False
        with self._lock:
            busy = any(self._running.values()) or any(self._lanes.texts.values())
            just_ended = call.queued_s - self._idle_since_s < _IDLE_S
            if self._closing or busy or just_ended:
                return False
            if self._lanes.expected_s(call.costs[0]) > self._short_s:
                return False
            self._running[call.lane] += 1
            return True

    def _run_here(self, call: Call) -> Done:
        [tokens] = call.tokens
        started_s = time.perf_counter()
        try:
            call.rows[0] = self._models[call.lane].run(tokens, alone=True)
        finally:
            seconds = time.perf_counter() - started_s
            with self._lock:
                self._end_run(call.lane)
                self._lanes.note(tokens.ids.size, seconds)
        done = Done(
            values=call.rows,
            truncated=(0,) if tokens.truncated else (),
            tokens=tokens.ids.size,
            queue_us=int((started_s - call.queued_s) * 1e6),
            compute_us=int((seconds + call.tokenize_s) * 1e6),
        )
        self._observer.ended(call.lane, done)
        return done

    def _admit(self, call: Call, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            if self._closing:
                raise Unavailable("DRAINING", "the encoder is stopping")
            assert self._loop in (None, loop)
            self._loop = loop
            self._lanes.admit(call)
            self._ready[call.lane].notify(len(call.texts))

    def _work(self, lane: Lane) -> None:
        """Warm this thread, then take texts and run them until the pool closes."""
        _lower_priority(_NICENESS[lane])
        self._warm_up(lane)
        model = self._models[lane]
        while (unit := self._take(lane)) is not None:
            call, row, alone = unit
            started_s = time.perf_counter()
            try:
                tokens = call.tokens[row] if call.tokens else model.tokenize([call.texts[row]])[0]
                _require_length(call, row, tokens)
                call.rows[row] = model.run(tokens, alone=alone)
            except Exception as exc:
                self._fail(call, exc)
            else:
                self._finish(call, row, tokens, time.perf_counter() - started_s)

    def _warm_up(self, lane: Lane) -> None:
        try:
            self._models[lane].warm()
        except Exception as exc:
            self._failure = exc
        with self._lock:
            self._warming -= 1
            if not self._warming:
                self._warm.set()

    def _take(self, lane: Lane) -> tuple[Call, int, bool] | None:
        """Wait for a text whose turn it is; None when closing.

        The last part tells whether nothing else of its lane runs or waits.
        """
        with self._lock:
            while not self._closing:
                if not self._lanes.may_run(lane):
                    self._ready[lane].wait()
                    continue
                unit = self._lanes.take(lane, time.perf_counter())
                self._let_lower_lanes_run(lane)
                if unit is not None:
                    return self._begun(*unit)
        return None

    def _begun(self, call: Call, row: int) -> tuple[Call, int, bool]:
        lane = call.lane
        self._running[lane] += 1
        if not row:
            call.started_s = time.perf_counter()
        return call, row, self._running[lane] == 1 and not self._lanes.texts[lane]

    def _end_run(self, lane: Lane) -> None:
        """Count a text as run no longer; the lock is held."""
        self._running[lane] -= 1
        self._idle_since_s = time.perf_counter()

    def _let_lower_lanes_run(self, lane: Lane) -> None:
        """Wake the threads that have only waited for this lane to be empty; the lock is held."""
        if not self._lanes.texts[lane]:
            for lower, ready in self._ready.items():
                if lower > lane and self._lanes.may_run(lower):
                    ready.notify_all()

    def _finish(self, call: Call, row: int, tokens: Tokens, seconds: float) -> None:
        """Count a row as done; the last one answers the call."""
        with self._lock:
            self._end_run(call.lane)
            self._lanes.note(tokens.ids.size, seconds)
            call.left -= 1
            call.num_tokens += tokens.ids.size
            if tokens.truncated:
                call.truncated.append(row)
            if call.left or call.over:
                return
        ended_s = time.perf_counter()
        done = Done(
            values=call.rows,
            truncated=tuple(sorted(call.truncated)),
            tokens=call.num_tokens,
            queue_us=int((call.started_s - call.queued_s) * 1e6),
            compute_us=int((ended_s - call.started_s + call.tokenize_s) * 1e6),
        )
        with self._lock:
            self._send(call, done)

    def _fail(self, call: Call, error: Exception) -> None:
        with self._lock:
            self._end_run(call.lane)
            self._lanes.forget(call)
            self._let_lower_lanes_run(call.lane)
            self._send(call, error)

    def _drop(self, call: Call) -> None:
        """Forget a call that has ended, however it did."""
        with self._lock:
            self._lanes.forget(call)
            self._let_lower_lanes_run(call.lane)

    def _send(self, call: Call, outcome: Done | Exception) -> None:
        """Hand an outcome to the event loop, which is woken once for several; the lock is held."""
        self._outbox.append((call, outcome))
        if len(self._outbox) == 1 and self._loop is not None:
            # A closed loop has nobody left who waits.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            outcomes, self._outbox = self._outbox, []
        for call, outcome in outcomes:
            if not isinstance(outcome, Exception):
                self._observer.ended(call.lane, outcome)
            if call.answer.done():
                continue
            if isinstance(outcome, Exception):
                call.answer.set_exception(outcome)
            else:
                call.answer.set_result(outcome)


def _num_chars(text: Text) -> int:
    return len(text) if isinstance(text, str) else sum(map(len, text))


def _require_length(call: Call, row: int, tokens: Tokens) -> None:
    """Refuse a text that was cut, when its caller wants that."""
    if tokens.truncated and call.refuse_truncation:
        raise InvalidArgument(
            f"texts[{row}]", call.texts[row], "texts that fit into max_tokens tokens"
        )


def _lower_priority(niceness: int) -> None:
    """Make this thread give way to the others; only Linux has priorities of threads."""
    if niceness and sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):
            now = os.getpriority(os.PRIO_PROCESS, thread)
            os.setpriority(os.PRIO_PROCESS, thread, min(now + niceness, _NICEST))
