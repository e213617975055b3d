"""Vitrine and other search services over the same items, vectors and queries, at equal recall.

Each peer runs as its documentation advises, with a client that embeds the query's text with the
encoder that Vitrine serves, asks for ten results and gets title and attributes back. Every engine's
search parameter is the smallest that reaches the recall required on tuning queries; recall is then
told of other queries. All are measured in turn in each round; ratios are per round, the median
counts.

    python -m benchmarks.peers --home HOME --work DIR --peer-python peers/bin/python
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks import peer_corpus, peer_worker
from benchmarks.deployment import queries_of, running
from benchmarks.in_process import pretty
from benchmarks.peer_engines import IN_PROCESS, OWN, SERVICES, Effort, Variant
from benchmarks.peer_recall import STRICT, Judge, ratios, smallest_enough, values_between
from benchmarks.peer_vitrine import Vitrine
from benchmarks.peer_worker import Failed, Worker
from benchmarks.report import machine, write_result
from encoder_service.bundle import load_bundle
from encoder_service.encoder import load_encoder

PARTS = ("services", "in_process")


class System(Protocol):
    """Vitrine, or an engine in its worker."""

    name: str
    about: dict[str, Any]

    def find(self, effort: Effort, start: int, stop: int) -> tuple[list[list[str]], float]:
        """Return the ids found for a range of queries, and the median milliseconds."""

    def time(self, effort: Effort, callers: int, seconds: float, start: int) -> dict[str, Any]:
        """Return rate, latency and memory while callers search."""

    def close(self) -> None:
        """End it."""


@dataclass
class Contender:
    """A system with what was found out about it; a reason instead where it cannot go on."""

    name: str
    system: System | None = None
    load_s: float | None = None
    reason: str = ""
    about: dict[str, Any] = field(default_factory=dict)
    efforts: dict[float, dict[str, Any]] = field(default_factory=dict)
    rounds: dict[tuple[float, int], list[dict[str, Any]]] = field(default_factory=dict)

    def attempt(self, act: Callable[[System], None]) -> None:
        """Do something with the system; keep the reason and end the system where that fails."""
        if self.system is None:
            return
        self.about = self.system.about
        try:
            act(self.system)
        except Failed as exc:
            self.reason = str(exc)
            self.system.close()
            self.system = None


@dataclass(frozen=True)
class Course:
    """What all contenders run over."""

    options: argparse.Namespace
    exported: peer_corpus.Exported
    judge: Judge
    files: dict[str, Any]

    def row_lists(self, name: str, ids: Sequence[Sequence[str]]) -> list[list[int]]:
        """Return ids as rows; engines over vectors alone answer with rows already."""
        row_of = {} if name in IN_PROCESS else self.exported.row_of
        return [[row_of[one] if row_of else int(one) for one in some] for some in ids]


def main() -> None:
    """Export the home, load every peer, measure, print, write."""
    options = _parser().parse_args()
    # 1. The same items, vectors and queries for everyone.
    home, build_s = _home(options)
    course = prepared(home, options)
    figures: dict[str, Any] = {
        "machine": machine(),
        "items": course.exported.manifest.items,
        "dim": course.exported.manifest.encoder.dim,
        "shards": course.exported.manifest.num_shards,
        "m": course.exported.manifest.index.m,
        "ef_construction": course.exported.manifest.index.ef_construction,
        "encoder": course.exported.manifest.encoder.name,
        "tuning_queries": options.tuning_queries,
        "reported_queries": options.reported_queries,
        "rounds": options.rounds,
        "seconds_a_phase": options.seconds,
        "allowance": options.allowance,
        "vitrine_build_s": build_s,
    }
    # 2. Services, all of them up; then indexes alone, in place of them.
    if "services" in options.part:
        peers = [opened(name, course) for name in options.engines if name in SERVICES]
        with running(home, options.port) as address:
            texts = json.loads(Path(course.files["texts"]).read_text())
            own = Contender(OWN, Vitrine(home, address, texts), _summed(build_s))
            figures["services"] = compared([own, *peers], course, options.callers)
    if "in_process" in options.part:
        alone = [opened(name, course) for name in options.engines if name in IN_PROCESS]
        figures["in_process"] = compared([_own_shards(home, course), *alone], course, [1])
    print(pretty(figures))
    print(f"written to {write_result(options.name, figures)}")


def prepared(home: Path, options: argparse.Namespace) -> Course:
    """Write what workers read; search exactly."""
    exported = peer_corpus.export(home, options.work / "corpus")
    judged = options.tuning_queries + options.reported_queries
    texts = queries_of(home, judged + options.timed_queries)
    bundle = home / "bundles" / exported.manifest.encoder.encoder_id
    queries = _embedded(bundle, texts[:judged])
    files = {
        "bundle": str(bundle.resolve()),
        "corpus": str(exported.folder.resolve()),
        "texts": str((options.work / "texts.json").resolve()),
        "queries": str((options.work / "queries.npy").resolve()),
    }
    Path(files["texts"]).write_text(json.dumps(texts))
    np.save(files["queries"], queries)
    vectors = np.load(exported.folder / "vectors.npy")
    return Course(options, exported, Judge.over(vectors, queries), files)


def opened(name: str, course: Course) -> Contender:
    """Load an engine unless that was done before, and open it."""
    manifest, options = course.exported.manifest, course.options
    folder = (options.work / "engines" / name).resolve()
    files = _files_for(name, folder, course)
    try:
        load_s = _loaded(name, folder, files, manifest, options.peer_python)
        return Contender(name, Worker(name, files, options.peer_python), load_s)
    except Failed as exc:
        return Contender(name, reason=str(exc))


def _own_shards(home: Path, course: Course) -> Contender:
    """Open the promoted generation as it is, in a worker of this interpreter."""
    folder, _ = peer_corpus.promoted(home)
    files = _files_for(OWN, folder.resolve(), course)
    return Contender(OWN, Worker(OWN, files, sys.executable))


def _files_for(name: str, folder: Path, course: Course) -> dict[str, Any]:
    """Return what an engine's worker reads."""
    manifest, options = course.exported.manifest, course.options
    engine = {
        "folder": str(folder),
        "port": options.engine_port + (*SERVICES, *IN_PROCESS, OWN).index(name),
        "m": manifest.index.m,
        "ef_construction": manifest.index.ef_construction,
        "cores": len(os.sched_getaffinity(0)),
        "items": manifest.items,
        "dim": manifest.encoder.dim,
    }
    return {**course.files, "engine": engine}


def compared(
    contenders: Sequence[Contender], course: Course, callers: Sequence[int]
) -> dict[str, Any]:
    """Tune all, measure them in turn, end them; return the figures."""
    targets = course.options.targets
    try:
        for contender in contenders:
            contender.attempt(partial(_tune, contender, course))
        for number in range(course.options.rounds):
            # Nobody is always first.
            turn = [
                *contenders[number % len(contenders) :],
                *contenders[: number % len(contenders)],
            ]
            for target in targets:
                for count in callers:
                    for contender in turn:
                        _round(contender, target, count, course)
    finally:
        for contender in contenders:
            if contender.system is not None:
                contender.system.close()
    return {
        "engines": {contender.name: _engine_figures(contender) for contender in contenders},
        "targets": [_target_figures(contenders, target, callers) for target in targets],
    }


def _tune(contender: Contender, course: Course, system: System) -> None:
    """Find the effort for each recall required, and what it finds for other queries."""
    tuning, allowance = course.options.tuning_queries, course.options.allowance
    known: dict[Effort, tuple[float, float]] = {}

    def known_at(effort: Effort) -> tuple[float, float]:
        if effort not in known:
            ids, p50_ms = system.find(effort, 0, tuning)
            rows = course.row_lists(system.name, ids)
            known[effort] = course.judge.recall(0, rows, allowance), p50_ms
        return known[effort]

    variants = [Variant(**variant) for variant in system.about["variants"]]
    for target in course.options.targets:
        enough = [found for one in variants if (found := _smallest(one, known_at, target))]
        if not enough:
            recall, best = max((recall, asdict(effort)) for effort, (recall, _) in known.items())
            contender.efforts[target] = {
                "reason": f"does not reach {target}: at most {recall:.4f}, at {best}"
            }
            continue
        # Of several ways to search, the fastest one that finds enough.
        effort = min(enough, key=lambda one: known_at(one)[1])
        ids, _ = system.find(effort, tuning, tuning + course.options.reported_queries)
        rows = course.row_lists(system.name, ids)
        contender.efforts[target] = {
            **asdict(effort),
            "tuning_recall": round(known_at(effort)[0], 4),
            "ann_recall_at_10": round(course.judge.recall(tuning, rows, allowance), 4),
            "ann_recall_at_10_strict": round(course.judge.recall(tuning, rows, STRICT), 4),
        }


def _smallest(
    variant: Variant, known_at: Callable[[Effort], tuple[float, float]], target: float
) -> Effort | None:
    values = values_between(variant.lowest, variant.highest)
    found = smallest_enough(values, lambda value: known_at(Effort(variant.name, value))[0], target)
    return None if found is None else Effort(variant.name, found)


def _round(contender: Contender, target: float, callers: int, course: Course) -> None:
    chosen = contender.efforts.get(target, {})
    if "variant" not in chosen:
        return
    effort = Effort(chosen["variant"], chosen["value"])
    done = contender.rounds.setdefault((target, callers), [])
    # Texts that were not judged, other ones in each round.
    start = course.options.tuning_queries + course.options.reported_queries
    start += len(done) * course.options.timed_queries // max(1, course.options.rounds)

    def measure(system: System) -> None:
        done.append(system.time(effort, callers, course.options.seconds, start))

    contender.attempt(measure)


def _engine_figures(contender: Contender) -> dict[str, Any]:
    last = max(contender.rounds, key=lambda key: key[1], default=None)
    memory = contender.rounds[last][-1]["memory"] if last and contender.rounds[last] else None
    return {
        "reason": contender.reason,
        "versions": contender.about.get("versions", {}),
        "settings": contender.about.get("settings", {}),
        "load_s": contender.load_s,
        "memory": memory,
    }


def _target_figures(
    contenders: Sequence[Contender], target: float, callers: Sequence[int]
) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "required_ann_recall_at_10": target,
        "engines": {
            contender.name: {
                **contender.efforts.get(target, {"reason": contender.reason}),
                **{f"callers_{n}": _medians(contender.rounds.get((target, n))) for n in callers},
            }
            for contender in contenders
        },
    }
    for count in callers:
        rates = {
            contender.name: [found["searches_a_second"] for found in rounds]
            for contender in contenders
            if (rounds := contender.rounds.get((target, count))) and not contender.reason
        }
        if own := rates.pop(OWN, None):
            figures[f"{OWN}_over_peers_at_{count}_callers"] = ratios(own, rates)
    return figures


def _medians(rounds: Sequence[Mapping[str, Any]] | None) -> dict[str, float] | None:
    if not rounds:
        return None
    kinds = ("searches_a_second", "p50_ms", "p95_ms")
    return {kind: round(statistics.median(one[kind] for one in rounds), 3) for kind in kinds}


def _loaded(name: str, folder: Path, files: dict[str, Any], manifest: Any, python: str) -> float:
    """Return the seconds that loading took, now or before."""
    report = folder.with_suffix(".json")
    made_of = [
        manifest.created_at,
        manifest.items,
        manifest.index.m,
        manifest.index.ef_construction,
    ]
    if report.exists():
        before = json.loads(report.read_text())
        if before["made_of"] == made_of:
            return float(before["load_s"])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    load_s = round(peer_worker.load(name, files, python), 2)
    report.write_text(json.dumps({"made_of": made_of, "load_s": load_s}))
    return load_s


def _home(options: argparse.Namespace) -> tuple[Path, dict[str, float]]:
    """Return the home to measure, and the seconds of its build if it was built now."""
    if not options.rebuild and not options.items:
        return options.home, {}
    out = options.work / "home"
    return out, peer_corpus.rebuilt(options.home, options.items, out)


def _summed(build_s: dict[str, float]) -> float | None:
    if not build_s:
        return None
    return round(sum(build_s[stage] for stage in peer_corpus.BUILD_STAGES), 1)


def _embedded(bundle_folder: Path, texts: Sequence[str]) -> "np.ndarray[Any, np.dtype[np.float32]]":
    bundle = load_bundle(bundle_folder)
    return load_encoder(bundle).encode([bundle.prompts.query + text for text in texts])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--home", type=Path, required=True, help="with a promoted generation")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path(tempfile.gettempdir()) / "vitrine-peers",
        help="folder that peers keep their data in; what is loaded is not loaded again",
    )
    parser.add_argument("--peer-python", required=True, help="interpreter with the peers' packages")
    parser.add_argument("--items", type=int, default=0, help="rebuild with the first items only")
    parser.add_argument("--rebuild", action="store_true", help="rebuild the home, to time it")
    parser.add_argument("--part", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--engines", nargs="*", default=[*SERVICES, *IN_PROCESS])
    parser.add_argument("--targets", type=float, nargs="*", default=[0.95, 0.99])
    parser.add_argument("--allowance", type=float, default=1e-3, help="see benchmarks.peer_recall")
    parser.add_argument("--tuning-queries", type=int, default=200)
    parser.add_argument("--reported-queries", type=int, default=300)
    parser.add_argument("--timed-queries", type=int, default=60_000)
    parser.add_argument("--callers", type=int, nargs="*", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds a phase")
    parser.add_argument("--port", type=int, default=7850)
    parser.add_argument("--engine-port", type=int, default=7860, help="first port of the peers")
    parser.add_argument("--name", default="peers", help="name of the result file")
    return parser


if __name__ == "__main__":
    main()
