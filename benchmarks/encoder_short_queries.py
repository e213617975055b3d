"""Short queries: one caller, 64 callers over gRPC, and what gRPC adds to an encoding."""

import argparse
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer

from benchmarks.encoder_entries import FULL, Entry, workers
from benchmarks.encoder_load import ask, running_service
from benchmarks.encoder_texts import short_texts
from benchmarks.encoder_worker import Worker
from benchmarks.report import median, percentile
from training.beir import Collection

CALLERS = 64
LONE_TEXTS = 600
LOAD_TEXTS_A_SECOND_MAX = 2_500
# Each figure is against those with as many threads, so that no core is compared with two.
ONE_THREAD = ("own_1", FULL)
LOOPS = (FULL, "onnx_fp32")


def measure_targets(
    options: argparse.Namespace, entries: list[Entry], collection: Collection
) -> dict[str, Any]:
    """Return every figure on short queries that has a target."""
    tokenizer = Tokenizer.from_file(str(options.bundle / "tokenizer.json"))
    load = int(options.rounds * options.load_seconds * LOAD_TEXTS_A_SECOND_MAX)
    count = LONE_TEXTS + options.overhead_texts + load
    texts = short_texts(tokenizer, collection, count, seed=31)
    single, texts = [[text] for text in texts[:LONE_TEXTS]], texts[LONE_TEXTS:]
    local = [entry for entry in entries if entry.kind != "grpc"]
    with workers(options, local) as (running, absent):
        found: dict[str, Any] = {
            "absent": absent,
            "about": about(running),
            "short_queries": _one_caller(options, running, single),
        }
    # The two sessions in a loop run beside the loaded service in turn, in the same rounds.
    loops = [entry for entry in local if entry.key in LOOPS]
    with running_service(options.bundle) as address, workers(options, loops) as (running, _):
        found["overhead"] = ask(
            do="overhead", address=address, bundle=str(options.bundle),
            texts=texts[: options.overhead_texts], rounds=options.rounds,
        )  # fmt: skip
        found["callers_64"] = _many_callers(
            options, running, single, texts[options.overhead_texts :], address
        )
    return found


def about(running: Mapping[str, Worker]) -> dict[str, dict[str, Any]]:
    """Return each system's threads, and what else is to be said of it."""
    return {key: {"threads": each.threads, "note": each.note} for key, each in running.items()}


def _one_caller(
    options: argparse.Namespace, running: Mapping[str, Worker], single: list[list[str]]
) -> dict[str, Any]:
    """Return p50 of one text a call, and this project's against the others', round by round."""
    p50: dict[str, list[float]] = {key: [] for key in running}
    for _ in range(options.rounds):
        for key, worker in running.items():
            p50[key].append(percentile(worker.times_us(single, options.seconds), 0.5))
    own_1, full_1 = (p50[key] for key in ONE_THREAD)
    return {
        "p50_us": {key: median(values) for key, values in p50.items()},
        "own_to": {
            key: _ratio(p50["own"], values)
            for key, values in p50.items()
            if key not in (*ONE_THREAD, "own")
        },
        "own_1_to": {FULL: _ratio(own_1, full_1)},
    }


def _many_callers(
    options: argparse.Namespace,
    loops: Mapping[str, Worker],
    single: list[list[str]],
    texts: list[str],
    address: str,
) -> dict[str, Any]:
    """Return the service's texts a second under load, against sessions called in a loop."""
    rates: list[float] = []
    looped: dict[str, list[float]] = {key: [] for key in loops}
    share = len(texts) // options.rounds
    for number in range(options.rounds):
        for key, worker in loops.items():
            spent_us = worker.times_us(single, options.load_seconds / 2)
            looped[key].append(len(spent_us) / sum(spent_us) * 1e6)
        loaded = ask(
            do="rate", address=address, callers=CALLERS, seconds=options.load_seconds,
            texts=texts[number * share : (number + 1) * share],
        )  # fmt: skip
        rates.append(loaded["texts_a_second"])
    return {
        "callers": CALLERS,
        "texts_a_second": median(rates),
        "latency_ms": loaded["latency_ms"],
        "loop_texts_a_second": {key: median(values) for key, values in looped.items()},
        "ratio_to_loop": {key: _ratio(rates, values) for key, values in looped.items()},
    }


def _ratio(numerators: list[float], denominators: list[float]) -> dict[str, float]:
    ratios = [above / below for above, below in zip(numerators, denominators, strict=True)]
    return {
        "median_of_rounds": median(ratios, 3),
        "least": round(min(ratios), 3),
        "most": round(max(ratios), 3),
    }
