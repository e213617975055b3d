"""What a comparison found of a system, in numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
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
        encoder: source of the vectors, of queries and items; "" of what is no encoder.
        options: what it was set to, as {"dim": 256, "ef_search": 64}.
        ann_recall: share of the exact first ten that its graph finds, 0..1; None without a graph,
            or where it finds fewer than ten.
        intervals: measure -> mean with its 95 % interval.
        p_values: measure -> p of its difference to the baseline; empty for the baseline itself.
        segments: kind -> segment -> (queries, recall@10).
    """

    note: str
    p50_ms: Mapping[str, float]
    query_ms: float
    encoder: str
    options: Mapping[str, float]
    ann_recall: float | None
    intervals: Mapping[str, Interval]
    p_values: Mapping[str, float]
    segments: Mapping[str, Mapping[str, tuple[int, float]]]

    @property
    def recall(self) -> float | None:
        """Its recall@10; None where it finds fewer than ten."""
        return self.intervals[PLOTTED].mean if PLOTTED in self.intervals else None

    def document(self) -> dict[str, Any]:
        """Return it for results.json."""
        return {
            "note": self.note,
            "p50_ms": dict(self.p50_ms),
            "query_ms": self.query_ms,
            "options": dict(self.options),
            "ann_recall@10": self.ann_recall,
            "measures": {name: asdict(found) for name, found in self.intervals.items()},
            "p_values": dict(self.p_values),
            "segments": {kind: dict(found) for kind, found in self.segments.items()},
        }


def sweeps(systems: Mapping[str, System], option: str) -> dict[str, dict[float, System]]:
    """Return encoders that differ in one option only: name of them all -> its value -> system.

    Those of one value are no sweep. A sweep is called what the names of its systems begin with.
    """
    alike: dict[tuple[str, frozenset[tuple[str, float]]], dict[str, System]] = {}
    for name, system in systems.items():
        if system.encoder and option in system.options:
            others = {key: value for key, value in system.options.items() if key != option}
            alike.setdefault((system.encoder, frozenset(others.items())), {})[name] = system
    found: dict[str, dict[float, System]] = {}
    for some in alike.values():
        by_value = {system.options[option]: system for system in some.values()}
        if len(by_value) > 1:
            name = name_of(list(some))
            found[name if name not in found else ", ".join(some)] = dict(sorted(by_value.items()))
    return found


def name_of(names: Sequence[str]) -> str:
    """Return what names begin with, without half a number; the first where it is nothing.

    >>> name_of(["ours", "ours-128", "ours-16"]), name_of(["m-128-16", "m-128-17"])
    ('ours', 'm-128')
    >>> name_of(["a", "b"])
    'a'
    """
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    start = "".join(letters[0] for letters in alike)
    return start if start in names else start.rstrip("0123456789").rstrip("-_.") or names[0]
