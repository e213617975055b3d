"""Where the time of one search went."""

import time


class Stopwatch:
    """Splits the time since it was made into named laps, in microseconds."""

    def __init__(self) -> None:
        self._started_ns = self._lap_ns = time.perf_counter_ns()
        self._laps_us: dict[str, int] = {}

    def lap(self, name: str) -> None:
        """End the lap that began with the last one, and name it."""
        now_ns = time.perf_counter_ns()
        self._laps_us[name] = (now_ns - self._lap_ns) // 1000
        self._lap_ns = now_ns

    def lap_us(self, name: str) -> int:
        """Return the microseconds of a lap; zero when there was none."""
        return self._laps_us.get(name, 0)

    @property
    def total_us(self) -> int:
        """Microseconds since the watch was made."""
        return (time.perf_counter_ns() - self._started_ns) // 1000
