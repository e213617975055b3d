"""One question to every shard, and what became of it on each."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import NamedTuple

from gateway.cluster import Cluster
from gateway.question import Question
from gateway.shard_client import ShardAnswer, ShardClient
from gateway.view import GenerationView
from rpc.deadlines import Deadline
from rpc.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    Unavailable,
    VitrineError,
)

# Where a query stands in the call that it shared with others, as a pattern.
PLACE_IN_CALL = r"queries\[\d+\]\."


class ShardState(Enum):
    """How a shard took part; the names are those of the wire."""

    OK = "OK"
    TIMEOUT = "TIMEOUT"
    UNAVAILABLE = "UNAVAILABLE"
    FAILED = "FAILED"
    SUSPENDED = "SUSPENDED"


class ShardOutcome(NamedTuple):
    """What became of a question on one shard. `items` is how many it holds, zero if unknown."""

    shard: int
    state: ShardState
    items: int
    latency_us: int = 0
    detail: str = ""
    answer: ShardAnswer | None = None
    error: VitrineError | None = None


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of the catalogue an answer speaks for."""

    items_known: int
    outcomes: tuple[ShardOutcome, ...]

    @property
    def answers(self) -> Sequence[ShardAnswer]:
        """The answers that came, in shard order."""
        return [o.answer for o in self.outcomes if o.answer is not None]

    @property
    def items_searched(self) -> int:
        """Items on the shards that answered."""
        return sum(answer.items for answer in self.answers)

    @property
    def fraction(self) -> float:
        """items_searched / items_known; 1 for an empty catalogue."""
        return min(1.0, self.items_searched / self.items_known) if self.items_known else 1.0

    @property
    def whole(self) -> bool:
        """Tell whether every shard answered."""
        return all(outcome.answer is not None for outcome in self.outcomes)


async def ask_shards(
    cluster: Cluster, view: GenerationView, question: Question, deadline: Deadline
) -> Coverage:
    """Ask every shard of a generation; those that are late or gone are part of the answer.

    Raises:
        InvalidArgument, FailedPrecondition: a shard refused the question itself; or
            GENERATION_RETIRED, no shard answered, or those that did were about to let go of it.
        Unavailable: no shard answered.
        DeadlineExceeded: no shard answered in time.
    """
    calls = {
        shard.shard: _ask(shard, question, deadline)
        for shard in cluster.shards
        if not shard.suspended
    }
    arrivals = _Arrivals(calls)
    try:
        await arrivals.wait(deadline.remaining_s())
        coverage = Coverage(
            view.items_total,
            tuple(
                _outcome_of(calls[shard.shard], shard.shard, view, arrivals)
                if shard.shard in calls
                else _suspended(shard.shard, view)
                for shard in cluster.shards
            ),
        )
    finally:
        for call in calls.values():
            call.cancel()
    if any(o.state is ShardState.TIMEOUT for o in coverage.outcomes):
        cluster.look_soon()
    _require_accepted(coverage)
    _require_held(coverage, cluster, view)
    _require_any(coverage)
    return coverage


class _Arrivals:
    """Waits for calls, and notes when each came back."""

    def __init__(self, calls: Mapping[int, "asyncio.Future[ShardAnswer]"]) -> None:
        self.latencies_us: dict[int, int] = {}
        self._started_s = time.perf_counter()
        self._num_missing = len(calls)
        self._over = asyncio.get_running_loop().create_future()
        for shard, call in calls.items():
            call.add_done_callback(partial(self._note, shard))

    async def wait(self, timeout_s: float) -> None:
        """Return when all calls are back, or when the time is over."""
        if not self._num_missing:
            return
        expiry = asyncio.get_running_loop().call_later(timeout_s, self._end)
        try:
            await self._over
        finally:
            expiry.cancel()

    def _note(self, shard: int, _: "asyncio.Future[ShardAnswer]") -> None:
        self.latencies_us[shard] = int((time.perf_counter() - self._started_s) * 1e6)
        self._num_missing -= 1
        if not self._num_missing:
            self._end()

    def _end(self) -> None:
        if not self._over.done():
            self._over.set_result(None)


def _ask(
    shard: ShardClient, question: Question, deadline: Deadline
) -> "asyncio.Future[ShardAnswer]":
    """Submit the question; a refusal at the door is an outcome like any other."""
    try:
        return shard.search(question, deadline)
    except VitrineError as exc:
        refused: asyncio.Future[ShardAnswer] = asyncio.get_running_loop().create_future()
        refused.set_exception(exc)
        return refused


def _outcome_of(
    call: "asyncio.Future[ShardAnswer]", shard: int, view: GenerationView, arrivals: _Arrivals
) -> ShardOutcome:
    items = view.items_by_shard[shard]
    if not call.done() or call.cancelled():
        return ShardOutcome(shard, ShardState.TIMEOUT, items, detail="no answer in time")
    error = call.exception()
    if error is None:
        answer = call.result()
        latency_us = arrivals.latencies_us.get(shard, 0)
        return ShardOutcome(shard, ShardState.OK, answer.items, latency_us, answer=answer)
    if not isinstance(error, VitrineError):
        raise error
    return ShardOutcome(shard, _state_of(error), items, detail=str(error), error=error)


def _state_of(error: VitrineError) -> ShardState:
    if isinstance(error, DeadlineExceeded):
        return ShardState.TIMEOUT
    gone = isinstance(error, Unavailable) or _is_retired(error)
    return ShardState.UNAVAILABLE if gone else ShardState.FAILED


def _is_retired(error: VitrineError | None) -> bool:
    return isinstance(error, FailedPrecondition) and error.reason == "GENERATION_RETIRED"


def _suspended(shard: int, view: GenerationView) -> ShardOutcome:
    detail = "silent when last looked at; asked again as soon as it answers"
    return ShardOutcome(shard, ShardState.SUSPENDED, view.items_by_shard[shard], detail=detail)


def _require_accepted(coverage: Coverage) -> None:
    """Refuse what every shard would refuse."""
    for outcome in coverage.outcomes:
        if isinstance(outcome.error, InvalidArgument):
            raise outcome.error.outside(PLACE_IN_CALL)
        if isinstance(outcome.error, FailedPrecondition) and not _is_retired(outcome.error):
            raise outcome.error


def _require_held(coverage: Coverage, cluster: Cluster, view: GenerationView) -> None:
    """Refuse a generation that shards let go of; one shard that has lost it is just not there."""
    retired = [o.error for o in coverage.outcomes if o.error and _is_retired(o.error)]
    # After promotions the other shards let go of it, too: the next one answers whole.
    if retired and (not coverage.answers or cluster.has_left(view.generation)):
        raise retired[0]


def _require_any(coverage: Coverage) -> None:
    """Refuse to answer from no shard."""
    if coverage.answers:
        return
    if all(outcome.state is ShardState.TIMEOUT for outcome in coverage.outcomes):
        raise DeadlineExceeded("search")
    only_errors = {type(outcome.error): outcome.error for outcome in coverage.outcomes}
    if len(only_errors) == 1 and (error := next(iter(only_errors.values()))) is not None:
        raise error
    states = ", ".join(f"{o.shard}: {o.state.value} {o.detail}".strip() for o in coverage.outcomes)
    raise Unavailable("NO_SHARD", f"no shard answered ({states})")
