"""How much time a call has, how it is shared out over its stages, and what ends a wait in time."""

import asyncio
import itertools
import math
import time
from dataclasses import dataclass
from typing import Protocol, TypeVar

T = TypeVar("T")


class HasTimeRemaining(Protocol):
    """The part of grpc.aio.ServicerContext that tells the caller's deadline."""

    def time_remaining(self) -> float | None:
        """Return seconds until the caller's deadline; None without one."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point on the monotonic clock, in seconds."""

    at_s: float

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        """Return the deadline that many seconds from now."""
        return cls(time.monotonic() + seconds)

    @classmethod
    def of_call(cls, context: HasTimeRemaining, default_s: float) -> "Deadline":
        """Return the caller's deadline, or `default_s` from now when that is sooner."""
        remaining_s = context.time_remaining()
        return cls.after(default_s if remaining_s is None else min(remaining_s, default_s))

    def remaining_s(self) -> float:
        """Return the seconds left, zero once passed."""
        return max(0.0, self.at_s - time.monotonic())

    def share_s(self, fraction: float, most_s: float = float("inf")) -> float:
        """Return a stage's share of what is left, in seconds, at most `most_s`."""
        return min(self.remaining_s() * fraction, most_s)

    @property
    def passed(self) -> bool:
        """Tell whether nothing is left."""
        return time.monotonic() >= self.at_s


class Alarms:
    """Time limits of many waits behind one timer of the event loop.

    A limit is hardly ever reached, so a timer for each wait is set and cancelled for nothing. Here
    the timer is set for the earliest limit, and looked at again only when it rings or a sooner one
    comes.
    """

    def __init__(self) -> None:
        self._limits: dict[int, tuple[float, asyncio.Future[object]]] = {}
        self._numbers = itertools.count()
        self._rings_s = math.inf
        self._timer: asyncio.TimerHandle | None = None

    async def within(self, future: "asyncio.Future[T]", seconds: float) -> T:
        """Return the future's result.

        Raises:
            TimeoutError: it was not there in time; the future ends with it.
        """
        if future.done():
            return future.result()
        number = next(self._numbers)
        at_s = time.monotonic() + max(0.0, seconds)
        self._limits[number] = (at_s, future)  # type: ignore[assignment]
        if at_s < self._rings_s:
            self._set(at_s)
        try:
            return await future
        finally:
            # Gone already where the alarms were closed meanwhile.
            self._limits.pop(number, None)

    def close(self) -> None:
        """Forget the timer; waits go on without limits."""
        self._limits.clear()
        self._set(math.inf)

    def _set(self, at_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._rings_s = at_s
        if at_s < math.inf:
            delay_s = max(0.0, at_s - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._ring)

    def _ring(self) -> None:
        now_s = time.monotonic()
        for at_s, future in self._limits.values():
            if at_s <= now_s and not future.done():
                future.set_exception(TimeoutError())
        left = (at_s for at_s, future in self._limits.values() if not future.done())
        self._set(min(left, default=math.inf))
