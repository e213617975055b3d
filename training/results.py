"""What a comparison found of a system, in numbers."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from training.significance import Interval

PLOTTED = "recall@10"


@dataclass(frozen=True, slots=True)
class System:
    """What a system reached.

    Attributes:
        note: how it was set.
        p50_ms: what its own part takes for one query alone, as {"encode": 3.1, "search": 0.4}.
        query_ms: the sum of that over the system and all that it is made of, each once.
        intervals: measure -> mean with its 95 % interval.
        p_values: measure -> p of its difference to the baseline; empty for the baseline itself.
        segments: kind -> segment -> (queries, recall@10).
    """

    note: str
    p50_ms: Mapping[str, float]
    query_ms: float
    intervals: Mapping[str, Interval]
    p_values: Mapping[str, float]
    segments: Mapping[str, Mapping[str, tuple[int, float]]]

    def document(self) -> dict[str, Any]:
        """Return it for results.json."""
        return {
            "note": self.note,
            "p50_ms": dict(self.p50_ms),
            "query_ms": self.query_ms,
            "measures": {name: asdict(found) for name, found in self.intervals.items()},
            "p_values": dict(self.p_values),
            "segments": {kind: dict(found) for kind, found in self.segments.items()},
        }
