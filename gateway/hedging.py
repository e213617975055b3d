"""When to ask a second replica: after the rolling p95, within a budget of extra calls.

Source: Dean and Barroso, The Tail at Scale, CACM 56(2), 2013, section "Hedged requests".
"""

from collections import deque

_WINDOW_CALLS = 256
_REFRESH_CALLS = 32
_TOKENS_MAX = 10.0
_TOKENS_PER_CALL = 0.05


class HedgeBudget:
    """A token bucket: hedges are at most 5 % of calls, in bursts of at most 10."""

    def __init__(self) -> None:
        self._tokens = _TOKENS_MAX

    def earn(self) -> None:
        """Count one ordinary call."""
        self._tokens = min(_TOKENS_MAX, self._tokens + _TOKENS_PER_CALL)

    def spend(self) -> bool:
        """Take one hedge; False when none is left."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class RollingP95:
    """The 95th percentile of the last 256 latencies, brought up to date every 32 calls."""

    def __init__(self) -> None:
        self.p95_s: float | None = None
        self._latencies_s: deque[float] = deque(maxlen=_WINDOW_CALLS)
        self._num_calls = 0

    def add(self, latency_s: float) -> None:
        """Count one call."""
        self._latencies_s.append(latency_s)
        self._num_calls += 1
        if self._num_calls % _REFRESH_CALLS == 0:
            ranked = sorted(self._latencies_s)
            self.p95_s = ranked[int(0.95 * (len(ranked) - 1))]
