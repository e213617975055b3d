"""How much time a call has, and how it is shared out over its stages."""

import time
from dataclasses import dataclass
from typing import Protocol


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
