"""How threads and sessions should be laid out: a lone query's time, many queries' rate, memory.

Each layout runs in a process of its own, rounds interleaved, so that one disturbance of the machine
does not fall on one layout alone. A lone query is also timed with a pause before it, as a service
sees it. Short queries of 2 to 5 words; one text a run.

    python -m benchmarks.encoder_layout --bundle DIR --name encoder_layout_minilm
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import psutil

from benchmarks.report import machine, median, percentile, write_result
from encoder_service.bundle import EncoderBundle, load_bundle
from encoder_service.layout import usable_cores
from encoder_service.tokenizer import Tokenizer

QUERIES = (
    "warm winter coat", "red dress for a wedding", "led bulb 60w", "running shoes", "garden hose",
    "cordless drill 18v battery", "black leather boots women", "kids rain jacket",
)  # fmt: skip
PAUSE_S = 0.005
NO_SPIN, SPIN = 0, -1


@dataclass(frozen=True, slots=True)
class Candidate:
    """A layout. `spin_us` is how long idle threads of a session spin: -1 as onnxruntime likes."""

    threads: int
    workers: int
    sessions: int
    spin_us: int
    arena: bool = False

    @property
    def name(self) -> str:
        """Return a short name."""
        spin = {NO_SPIN: "no spinning", SPIN: "spinning"}.get(self.spin_us, f"{self.spin_us} us")
        arena = ", arena" if self.arena else ""
        return (
            f"{self.threads} threads a text, {self.workers} workers, {self.sessions} sessions, "
            f"{spin}{arena}"
        )


def candidates(cores: int) -> list[Candidate]:
    """Return the layouts that are compared."""
    return [
        Candidate(1, cores, 1, NO_SPIN),
        Candidate(1, cores, cores, NO_SPIN),
        Candidate(1, cores, 1, NO_SPIN, arena=True),
        Candidate(1, 2 * cores, 1, NO_SPIN),
        Candidate(cores, 1, 1, NO_SPIN),
        Candidate(cores, 1, 1, 50),
        Candidate(cores, 1, 1, SPIN),
        Candidate(cores, cores, 1, NO_SPIN),
        Candidate(cores, cores, 1, SPIN),
    ]


def main() -> None:
    """Measure every layout for some rounds, print, write."""
    options = _parser().parse_args()
    if options.candidate:
        print(json.dumps(measure(options.bundle, Candidate(**json.loads(options.candidate)))))
        return
    rounds: dict[str, list[dict[str, float]]] = defaultdict(list)
    for _ in range(options.rounds):
        for candidate in candidates(usable_cores()):
            rounds[candidate.name].append(_in_process_of_its_own(options.bundle, candidate))
    bundle = load_bundle(options.bundle)
    figures: dict[str, Any] = {
        "machine": machine(),
        "model": bundle.name,
        "quantization": bundle.quantization,
        "rounds": options.rounds,
        "layouts": {
            name: {key: median([one[key] for one in each], 2) for key in each[0]}
            for name, each in rounds.items()
        },
    }
    print(json.dumps(figures["layouts"], indent=1))
    print(f"written to {write_result(options.name, figures)}")


def measure(folder: Path, candidate: Candidate) -> dict[str, float]:
    """Return one layout's figures, measured in this process."""
    bundle = load_bundle(folder)
    before = psutil.Process().memory_info().rss
    runners = [_Runner(bundle, candidate) for _ in range(candidate.sessions)]
    for runner in runners:
        for _ in range(3):
            runner.run_all()
    resident = psutil.Process().memory_info().rss - before
    back_to_back, after_a_pause = _lone_ms(runners[0], 0, 1.2), _lone_ms(runners[0], PAUSE_S, 1.2)
    return {
        "lone_p50_ms": percentile(back_to_back, 0.5),
        "lone_p95_ms": percentile(back_to_back, 0.95),
        "lone_after_pause_p50_ms": percentile(after_a_pause, 0.5),
        "texts_per_s": _rate(runners, candidate.workers, 1.5),
        "resident_mib": resident / 2**20,
    }


class _Runner:
    """One session and the queries' tokens."""

    def __init__(self, bundle: EncoderBundle, candidate: Candidate) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = candidate.threads
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False
        options.enable_cpu_mem_arena = candidate.arena
        if candidate.spin_us == NO_SPIN:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        elif candidate.spin_us != SPIN:
            microseconds = str(candidate.spin_us)
            options.add_session_config_entry("session.intra_op.spin_duration_us", microseconds)
        self._session = onnxruntime.InferenceSession(
            str(bundle.model_path), options, providers=["CPUExecutionProvider"]
        )
        self._tokens = [entry.ids for entry in Tokenizer(bundle).tokenize(QUERIES)]

    def run(self, number: int) -> None:
        """Encode one of the queries."""
        ids = self._tokens[number % len(self._tokens)]
        self._session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})

    def run_all(self) -> None:
        """Encode each query once."""
        for number in range(len(self._tokens)):
            self.run(number)


def _lone_ms(runner: _Runner, pause_s: float, seconds: float) -> list[float]:
    taken: list[float] = []
    until_s = time.perf_counter() + seconds
    while (started_s := time.perf_counter()) < until_s:
        runner.run(len(taken))
        taken.append((time.perf_counter() - started_s) * 1e3)
        if pause_s:
            time.sleep(pause_s)
    return taken


def _rate(runners: list[_Runner], workers: int, seconds: float) -> float:
    counts = [0] * workers
    until_s = time.perf_counter() + seconds

    def work(number: int) -> None:
        runner = runners[number % len(runners)]
        while time.perf_counter() < until_s:
            runner.run(number + counts[number])
            counts[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


def _in_process_of_its_own(bundle: Path, candidate: Candidate) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.encoder_layout", "--bundle", str(bundle)]
    command += ["--candidate", json.dumps(asdict(candidate))]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    figures: dict[str, float] = json.loads(output)
    return figures


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--name", default="encoder_layout", help="name of the result file")
    parser.add_argument("--candidate", default="", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
