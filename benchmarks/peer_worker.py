"""One engine and its callers in a process of their own, told what to do by lines of JSON.

`python -m benchmarks.peer_worker load|search ENGINE FILES` runs in an interpreter that has the
engine's library. `load` takes in the items and ends; `search` reads a command a line on stdin and
answers each with a line on stdout. `Worker` is the other end.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peer_engines import (
    SERVICES,
    Corpus,
    Effort,
    Engine,
    EngineOptions,
    Floats,
    Search,
    open_engine,
)
from benchmarks.report import percentile, resident, resident_of

ROOT = Path(__file__).parents[1]
_WARMING_S = 0.5


class Failed(Exception):
    """An engine cannot be loaded, or failed at what it was told."""


class Worker:
    """Starts an engine's process, asks it, ends it."""

    def __init__(self, name: str, files: dict[str, Any], python: str) -> None:
        """Start the process and wait until the engine is open.

        Raises:
            Failed: it cannot be used here.
        """
        self.name = name
        self._process = _start(["search", name, json.dumps(files)], python)
        self.about = self._answer()

    def find(self, effort: Effort, start: int, stop: int) -> tuple[list[list[str]], float]:
        """Return the ids found for a range of query vectors, and the median milliseconds."""
        found = self._ask(do="find", effort=asdict(effort), start=start, stop=stop)
        return found["ids"], found["p50_ms"]

    def time(self, effort: Effort, callers: int, seconds: float, start: int) -> dict[str, Any]:
        """Return rate, latency and memory while callers search for texts from `start` on."""
        return self._ask(
            do="time", effort=asdict(effort), callers=callers, seconds=seconds, start=start
        )

    def close(self) -> None:
        """End the process, and with it the engine."""
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=120)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _ask(self, **command: Any) -> dict[str, Any]:
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as exc:
            raise Failed(f"its process ended with status {self._process.wait()}") from exc
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        return _read_answer(self._process)


def load(name: str, files: dict[str, Any], python: str) -> float:
    """Have an engine take in all items, in a process of its own; return the seconds.

    Raises:
        Failed: it cannot.
    """
    process = _start(["load", name, json.dumps(files)], python)
    try:
        return float(_read_answer(process)["load_s"])
    finally:
        process.communicate()


def _start(arguments: list[str], python: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.Popen(
        [python, "-m", "benchmarks.peer_worker", *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def _read_answer(process: "subprocess.Popen[str]") -> dict[str, Any]:
    assert process.stdout
    line = process.stdout.readline()
    if not line:
        raise Failed(f"its process ended with status {process.wait()}")
    answer: dict[str, Any] = json.loads(line)
    if "failed" in answer:
        raise Failed(answer["failed"])
    return answer


class Bench:
    """An open engine with what is asked of it, in the worker's process."""

    def __init__(self, name: str, files: dict[str, Any]) -> None:
        """Load the encoder, where texts are searched for; then open the engine."""
        self._encode = _encoder(Path(files["bundle"])) if name in SERVICES else None
        self._texts: list[str] = json.loads(Path(files["texts"]).read_text())
        self._queries: Floats = np.load(files["queries"])
        self._own_before = resident("self")
        self.engine = opened(name, files)

    def find(self, effort: Effort, start: int, stop: int) -> dict[str, Any]:
        """Search for query vectors one after another."""
        self.engine.tune(effort)
        ids, took_ms = [], []
        with self.engine.searcher() as search:
            self._warm(search)
            for query in self._queries[start:stop]:
                sent_s = time.perf_counter()
                found = search(query)
                took_ms.append((time.perf_counter() - sent_s) * 1e3)
                ids.append([hit.item_id for hit in found])
        return {"ids": ids, "p50_ms": percentile(took_ms, 0.5)}

    def time(self, effort: Effort, callers: int, seconds: float, start: int) -> dict[str, Any]:
        """Search from so many threads at once, each for other texts."""
        self.engine.tune(effort)
        with ExitStack() as stack:
            searches = [stack.enter_context(self.engine.searcher()) for _ in range(callers)]
            self._warm(searches[0])
            asks = [self._ask(search) for search in searches]
            wanted: Sequence[Any] = self._texts if self._encode else list(self._queries)
            rates = _timed(asks, wanted, seconds, start)
            # Before connections are closed.
            return {**rates, "memory": self._memory()}

    def _warm(self, search: Search) -> None:
        """Search for what is judged: an engine may just have been started."""
        stop_s = time.perf_counter() + _WARMING_S
        for query in self._queries:
            search(query)
            if time.perf_counter() > stop_s:
                return

    def _memory(self) -> dict[str, Any]:
        """Return what the engine's processes hold, or what this one holds more of with it."""
        ids = self.engine.process_ids()
        if ids:
            return {"of": "the engine's processes", **resident_of(ids)}
        now = resident("self")
        more = {kind: now[kind] - self._own_before[kind] for kind in now}
        return {"of": "the client's process, what it holds more of", **more}

    def _ask(self, search: Search) -> Callable[[Any], object]:
        encode = self._encode
        if encode is None:
            return search
        return lambda text: search(encode(text))


def _encoder(bundle_folder: Path) -> Callable[[str], Floats]:
    """Return the encoder that Vitrine serves: one session of one thread, shared by all callers."""
    from encoder_service.bundle import load_bundle
    from encoder_service.encoder import load_encoder

    bundle = load_bundle(bundle_folder)
    encoder = load_encoder(bundle)
    encoder.encode(["warm"])

    def encode(text: str) -> Floats:
        vector: Floats = encoder.encode([bundle.prompts.query + text])[0]
        return vector

    return encode


def _timed(
    asks: Sequence[Callable[[Any], object]], wanted: Sequence[Any], seconds: float, start: int
) -> dict[str, float]:
    """Call back to back, a thread for each; the clock starts when everyone has called once."""
    took_ms: list[list[float]] = [[] for _ in asks]
    ready, errors = threading.Barrier(len(asks) + 1), []

    def call(number: int) -> None:
        ask, place = asks[number], start + number
        try:
            ask(wanted[place % len(wanted)])
            ready.wait()
            stop_s = time.perf_counter() + seconds
            while (sent_s := time.perf_counter()) < stop_s:
                place += len(asks)
                ask(wanted[place % len(wanted)])
                took_ms[number].append((time.perf_counter() - sent_s) * 1e3)
        except Exception as exc:
            errors.append(exc)
            ready.abort()

    callers = [threading.Thread(target=call, args=(number,)) for number in range(len(asks))]
    for caller in callers:
        caller.start()
    with suppress(threading.BrokenBarrierError):
        ready.wait()
    started_s = time.perf_counter()
    for caller in callers:
        caller.join()
    elapsed_s = time.perf_counter() - started_s
    if errors:
        raise errors[0]
    return summary([ms for some in took_ms for ms in some], elapsed_s)


def summary(took_ms: Sequence[float], elapsed_s: float) -> dict[str, float]:
    """Return searches a second, and milliseconds a search."""
    return {
        "searches_a_second": round(len(took_ms) / elapsed_s, 2),
        "p50_ms": round(percentile(took_ms, 0.5), 4),
        "p95_ms": round(percentile(took_ms, 0.95), 4),
    }


def opened(name: str, files: dict[str, Any]) -> Engine:
    """Return an engine that is open."""
    engine = open_engine(name, _options(files))
    engine.open()
    return engine


def _options(files: dict[str, Any]) -> EngineOptions:
    return EngineOptions(**{**files["engine"], "folder": Path(files["engine"]["folder"])})


def _load(name: str, files: dict[str, Any]) -> dict[str, Any]:
    engine = open_engine(name, _options(files))
    started_s = time.perf_counter()
    try:
        engine.load(Corpus(Path(files["corpus"])))
        return {"load_s": time.perf_counter() - started_s}
    finally:
        engine.close()


def _serve(
    name: str, files: dict[str, Any], answer: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    bench = Bench(name, files)
    engine = bench.engine
    try:
        answer(
            {
                "versions": engine.versions,
                "settings": engine.settings,
                "variants": [asdict(variant) for variant in engine.variants],
            }
        )
        for line in sys.stdin:
            answer(_failure_told(partial(_done, bench, json.loads(line))))
    finally:
        engine.close()
    return {}


def _done(bench: Bench, command: dict[str, Any]) -> dict[str, Any]:
    what = command.pop("do")
    if "effort" in command:
        command["effort"] = Effort(**command["effort"])
    done: dict[str, Any] = getattr(bench, what)(**command)
    return done


def _failure_told(act: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return act()
    except Exception as exc:
        traceback.print_exc()
        return {"failed": f"{type(exc).__name__}: {str(exc).strip()[:500]}"}


def main() -> None:
    """Load the engine and end, or do as told until stdin ends."""
    # Servers are stopped by SIGINT, which a job in the background may have inherited as ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # Libraries print what they like: the answers get the real stdout, everything else stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(found: dict[str, Any]) -> None:
        answers.write(json.dumps(found) + "\n")
        answers.flush()

    mode, name, files = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    if mode == "load":
        answer(_failure_told(lambda: _load(name, files)))
        return
    failed = _failure_told(lambda: _serve(name, files, answer))
    if failed:
        answer(failed)


if __name__ == "__main__":
    main()
