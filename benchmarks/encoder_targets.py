"""What the encoder's figures are to reach, and whether they do.

A figure that was not measured is in the table without a value, and is not reached.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from training.retrieval_gate import FP32_ITEMS, INT8_ITEMS

COSINE_MIN = 0.99
LOST_PERCENT_MAX = 0.2
SIZE_SHARE_MAX = 0.27
FULL_SHARE_MAX = 0.45
ADDED_EMPTY_RPCS_MAX = 1.3
# By dimension, as all-MiniLM-L6-v2 and all-mpnet-base-v2 have it; others have no such target.
TORCH_SHARE_MAX = {384: 0.10, 768: 0.15}
LOOP_TIMES_MIN = {384: 2.0, 768: 2.5}

_PAIRINGS = {FP32_ITEMS: ("FP32", "over_fp32_items"), INT8_ITEMS: ("INT8", "over_own_items")}


@dataclass(frozen=True, slots=True)
class Target:
    """A figure and its limit, one of which is None.

    Attributes:
        figure: what is measured, with threads and callers.
        at_most: what it may be.
        at_least: what it must be.
        measured: what it is; None where a phase was left out.
    """

    figure: str
    at_most: float | None = None
    at_least: float | None = None
    measured: float | None = None

    @property
    def reached(self) -> bool:
        """Tell whether it was measured and is within its limit."""
        if self.measured is None:
            return False
        if self.at_most is not None:
            return self.measured <= self.at_most
        return self.at_least is not None and self.measured >= self.at_least

    def cells(self) -> list[str]:
        """Return figure, target, value and verdict for people.

        >>> Target("size", at_most=0.27, measured=0.2625).cells()
        ['size', '<= 0.27', '0.2625', 'yes']
        """
        limit = f"<= {self.at_most:g}" if self.at_most is not None else f">= {self.at_least:g}"
        if self.measured is None:
            return [self.figure, limit, "not measured", ""]
        return [self.figure, limit, f"{self.measured:g}", "yes" if self.reached else "no"]


def targets(figures: Mapping[str, Any], shipped: Mapping[str, Any]) -> list[Target]:
    """Return every figure that has a target.

    Args:
        figures: what the phases found, as `encoder_report.joined` returns it.
        shipped: encoder.json of the bundle that was measured.
    """
    return _nearness(figures, shipped) + _speed(figures, shipped["dim"])


def _nearness(figures: Mapping[str, Any], shipped: Mapping[str, Any]) -> list[Target]:
    """Return what INT8 keeps of meaning, of what is found, and of size."""
    systems = figures["systems"]
    own = systems["own"]
    found = [
        Target("mean cosine to FP32", at_least=COSINE_MIN, measured=own.get("cosine_mean")),
        Target(
            "file size, share of FP32",
            at_most=SIZE_SHARE_MAX,
            measured=round(own["file_bytes"] / systems["onnx_fp32_1"]["file_bytes"], 4),
        ),
    ]
    ships = shipped["gate"].get("retrieval", {}).get("pairing")
    for pairing, (items, suffix) in _PAIRINGS.items():
        note = ", as the bundle ships" if pairing == ships else ""
        count = own.get(f"items_{suffix}")
        among = f"{count:,} items" if count else "items"
        found += [
            Target(
                f"% of {measure}@10 lost, INT8 queries over {among} in {items}{note}",
                at_most=LOST_PERCENT_MAX,
                measured=own.get(f"{measure}_at_10_{suffix}_lost_percent"),
            )
            for measure in ("recall", "ndcg")
        ]
    return found


def _speed(figures: Mapping[str, Any], dim: int) -> list[Target]:
    """Return short queries' times and rates as ratios, threads on both sides in words."""
    threads = {key: each.get("threads", "?") for key, each in figures["systems"].items()}
    short = figures.get("short_queries", {})
    added = figures.get("overhead", {})
    loops = figures.get("callers_64", {}).get("ratio_to_loop", {})
    shipped = f"as shipped, up to {threads['own']} threads"
    every = threads["onnx_fp32"]
    found = [
        Target(
            "p50 of a short query, 1 thread, share of onnxruntime FP32, 1 thread",
            at_most=FULL_SHARE_MAX,
            measured=_ratio(short.get("own_1_to", {}).get("onnx_fp32_1")),
        ),
        Target(
            f"p50 of a short query, {shipped}, share of onnxruntime FP32, {every} threads",
            at_most=FULL_SHARE_MAX,
            measured=_ratio(short.get("own_to", {}).get("onnx_fp32")),
        ),
        Target(
            "Encode less encoding in process, p50, in empty RPCs",
            at_most=ADDED_EMPTY_RPCS_MAX,
            measured=added.get("added_in_empty_rpcs"),
        ),
        Target(
            "the same over a standing call, as gateways ask",
            at_most=ADDED_EMPTY_RPCS_MAX,
            measured=added.get("added_over_standing_call"),
        ),
    ]
    if dim in TORCH_SHARE_MAX:
        torch = threads.get("torch", "?")
        found.append(
            Target(
                f"p50 of a short query, {shipped}, share of torch FP32, {torch} threads",
                at_most=TORCH_SHARE_MAX[dim],
                measured=_ratio(short.get("own_to", {}).get("torch")),
            )
        )
    if dim in LOOP_TIMES_MIN:
        found += [
            Target(
                f"texts/s of 64 callers over gRPC, times one onnxruntime FP32 session, {width}",
                at_least=LOOP_TIMES_MIN[dim],
                measured=_ratio(loops.get(key)),
            )
            for key, width in (("onnx_fp32_1", "1 thread"), ("onnx_fp32", f"{every} threads"))
        ]
    return found


def _ratio(found: Mapping[str, float] | None) -> float | None:
    return None if found is None else found["median_of_rounds"]
