"""One encoder in a process of its own, told what to do by lines of JSON.

`python -m benchmarks.encoder_worker KIND FILES` reads a command a line on stdin and answers each
with a line on stdout. `Worker` is the other end.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.encoder_systems import Absent, Floats, System, open_system

ROOT = Path(__file__).parents[1]


class Worker:
    """Starts an encoder's process, asks it, ends it."""

    def __init__(self, kind: str, files: dict[str, str], python: str = sys.executable) -> None:
        """Start the process and wait until the encoder is loaded.

        Raises:
            Absent: it cannot be used here.
        """
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.encoder_worker", kind, json.dumps(files)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, env=environment,
        )  # fmt: skip
        try:
            loaded = self._answer()
        except RuntimeError as exc:
            raise Absent(f"cannot be loaded: {exc}") from exc
        if "absent" in loaded:
            self.close()
            raise Absent(loaded["absent"])
        self.threads: int = loaded["threads"]
        self.note: str = loaded["note"]

    def times_us(self, batches: list[list[str]], seconds: float, calls_min: int = 1) -> list[float]:
        """Return the microseconds of encoding batches in turn, for so long and so many at least."""
        found: list[float] = self._ask(
            do="time", batches=batches, seconds=seconds, calls_min=calls_min
        )["us"]
        return found

    def embed(self, texts: Sequence[str], out: Path, together: int = 1) -> None:
        """Write the texts' vectors as a .npy file.

        Args:
            texts: what to encode.
            out: the file.
            together: texts of like length encoded at once. More than one is sooner done, and of
                an encoder in 8 bits measures something else: there neighbours change a vector.
        """
        self._ask(do="embed", texts=list(texts), out=str(out), together=together)

    def close(self) -> None:
        """End the process."""
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait(timeout=60)

    def _ask(self, **command: Any) -> dict[str, Any]:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"worker ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def main() -> None:
    """Load the encoder, then do as told until stdin ends."""
    # Libraries print what they like: the answers get the real stdout, everything else stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**found: Any) -> None:
        answers.write(json.dumps(found) + "\n")
        answers.flush()

    try:
        system = open_system(sys.argv[1], json.loads(sys.argv[2]))
    except Absent as exc:
        answer(absent=str(exc))
        return
    answer(threads=system.threads, note=system.note)
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "time":
            command.pop("do")
            answer(us=_times_us(system, **command))
        else:
            np.save(command["out"], embedded(system, command["texts"], command["together"]))
            answer(done=True)


def embedded(system: System, texts: list[str], together: int) -> Floats:
    """Return the vectors of texts, so many of like length encoded at once."""
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    rows: list[Floats] = []
    for start in range(0, len(order), together):
        rows += list(system.encode([texts[place] for place in order[start : start + together]]))
    back = np.argsort(order)
    return np.stack(rows)[back].astype(np.float32)


def _times_us(
    system: System, batches: list[list[str]], seconds: float, calls_min: int
) -> list[float]:
    """Time calls until both are reached; the first call warms and is not counted."""
    turns = cycle(batches)
    system.encode(next(turns))
    spent_us: list[float] = []
    stop_s = time.perf_counter() + seconds
    while len(spent_us) < calls_min or time.perf_counter() < stop_s:
        texts = next(turns)
        started_s = time.perf_counter()
        system.encode(texts)
        spent_us.append((time.perf_counter() - started_s) * 1e6)
    return spent_us


if __name__ == "__main__":
    main()
