"""What waits to be run, by lane: bounded in texts and tokens, higher lanes first."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from numpy.typing import NDArray

from encoder_service.tokenizer import Text, Tokens
from rpc.errors import ResourceExhausted

RETRY_DEFAULT_S = 0.1
RETRY_LEAST_S = 0.01
RETRY_MOST_S = 30.0
# Share that an older measurement of the drain rate keeps when a text has been run.
_RATE_KEPT = 0.98


class Lane(IntEnum):
    """Which queue a call waits in; a smaller number goes first."""

    QUERY = 0
    RERANK = 1
    ITEM = 2

    @property
    def label(self) -> str:
        """Return its name in metrics and errors."""
        return self.name.lower()


@dataclass(slots=True, eq=False)
class Call:
    """One call's texts, its rows filled in by whichever workers take them.

    `tokens` is empty when texts are to be tokenized as they are run; `costs` are the tokens of
    each text then as estimated.
    """

    lane: Lane
    texts: Sequence[Text]
    tokens: Sequence[Tokens]
    costs: Sequence[int]
    rows: NDArray[Any]
    answer: "asyncio.Future[Any]"
    refuse_truncation: bool
    queued_s: float
    expires_s: float
    tokenize_s: float = 0.0
    taken: int = 0
    left: int = 0
    num_tokens: int = 0
    started_s: float = 0.0
    over: bool = False
    truncated: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What may wait in one lane. A call that finds its lane empty is always let in."""

    texts_max: int
    tokens_max: int


class Lanes:
    """The waiting calls of every lane. Whoever calls holds the pool's lock."""

    def __init__(
        self, bounds: Bounds, workers: int, on_dropped: Callable[[Lane, int], None]
    ) -> None:
        """Make empty lanes.

        Args:
            bounds: what may wait in each.
            workers: texts of one lane run side by side.
            on_dropped: told how many texts of a lane leave it without having been run.
        """
        self._bounds = bounds
        self._workers = workers
        self._on_dropped = on_dropped
        # In order, and quick to take from anywhere: callers that leave must leave nothing behind.
        self._calls: Mapping[Lane, OrderedDict[Call, None]] = {lane: OrderedDict() for lane in Lane}
        self.texts = dict.fromkeys(Lane, 0)
        self.tokens = dict.fromkeys(Lane, 0)
        self._tokens_run = 0.0
        self._seconds_run = 0.0

    def admit(self, call: Call) -> None:
        """Let a call wait.

        Raises:
            ResourceExhausted: its lane is full; says when there will be room.
        """
        lane, cost = call.lane, sum(call.costs)
        texts, tokens = self.texts[lane], self.tokens[lane]
        most = self._bounds
        full = texts + len(call.texts) > most.texts_max or tokens + cost > most.tokens_max
        if texts and full:
            raise ResourceExhausted(
                f"{texts} {lane.label} texts of {tokens} tokens are waiting, {len(call.texts)} of "
                f"{cost} came; allowed are {most.texts_max} texts and {most.tokens_max} tokens",
                retry_after_s=self._retry_after_s(call, cost),
            )
        self._calls[lane][call] = None
        self.texts[lane] += len(call.texts)
        self.tokens[lane] += cost

    def may_run(self, lane: Lane) -> bool:
        """Tell whether a lane has texts, and no lane before it has."""
        first = next((other for other in Lane if self.texts[other]), None)
        return first is lane

    def take(self, lane: Lane, now_s: float) -> tuple[Call, int] | None:
        """Return the next text of a lane as its call and row; None when there is none.

        Calls whose time is over are passed over.
        """
        calls = self._calls[lane]
        while calls:
            call = next(iter(calls))
            if now_s >= call.expires_s:
                self.forget(call)
                continue
            row = call.taken
            call.taken += 1
            self.texts[lane] -= 1
            self.tokens[lane] -= call.costs[row]
            if call.taken == len(call.texts):
                del calls[call]
            return call, row
        return None

    def forget(self, call: Call) -> None:
        """Let a call wait no longer; what is run of it already is thrown away."""
        if call.over:
            return
        call.over = True
        untaken = len(call.texts) - call.taken
        if untaken:
            del self._calls[call.lane][call]
            self.texts[call.lane] -= untaken
            self.tokens[call.lane] -= sum(call.costs[call.taken :])
            self._on_dropped(call.lane, untaken)

    def waiting(self) -> Iterator[Call]:
        """Yield the calls that have texts which nobody has taken."""
        for calls in self._calls.values():
            yield from calls

    def expected_s(self, tokens: int) -> float:
        """Return how long one worker takes for so many tokens; infinite when none ever ran any."""
        if not self._tokens_run:
            return float("inf")
        return tokens * self._seconds_run / self._tokens_run

    def note(self, tokens: int, seconds: float) -> None:
        """Remember how long one worker took for so many tokens."""
        self._tokens_run = self._tokens_run * _RATE_KEPT + tokens
        self._seconds_run = self._seconds_run * _RATE_KEPT + seconds

    def _retry_after_s(self, call: Call, cost: int) -> float:
        """Return how long it takes until enough has been run to let a call in.

        What is to go first are the lanes before it, and what is too much in its own.
        """
        if not self._seconds_run:
            return RETRY_DEFAULT_S
        a_second = self._tokens_run / self._seconds_run * self._workers
        first = sum(self.tokens[lane] for lane in Lane if lane < call.lane)
        own = self.tokens[call.lane]
        a_text = own / max(self.texts[call.lane], 1)
        over_tokens = own + cost - self._bounds.tokens_max
        over_texts = self.texts[call.lane] + len(call.texts) - self._bounds.texts_max
        excess = min(own, max(over_tokens, over_texts * a_text))
        return min(max((first + excess) / a_second, RETRY_LEAST_S), RETRY_MOST_S)
