"""One encoder in every runtime a Python user would try: speed, size, and what the vectors find.

Compares the bundle as encoder_service runs it with sentence-transformers (PyTorch, and its ONNX
backend), onnxruntime in full precision, the usual dynamic INT8, and OpenVINO in full precision and
INT8, each set up as its own documentation advises. Every call goes from text to vectors,
tokenization included. Each system has a process of its own; they are measured in turn, in rounds,
and medians of rounds are compared. Phases keep what they found in --work, so each can run alone:

    quality   cosine to full precision, recall@10 and ndcg@10 (vectors are kept, and reused)
    grid      p50, p95, p99 and texts a second by length and batch
    targets   short queries: p50, 64 callers over gRPC, what gRPC adds in empty RPCs
    report    tables, of systems and of targets; JSON in benchmarks/results, plot in docs/images

    pip install 'vitrine[encoder,train,bench]'
    python -m benchmarks.encoder --quick                       # two minutes, generated judgements
    python -m benchmarks.encoder --name minilm --bundle INT8_BUNDLE
    python -m benchmarks.encoder --name mpnet --model MODEL --bundle ... --phase quality
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from benchmarks import encoder_report
from benchmarks.encoder_entries import FULL, Entry, entries_of, workers
from benchmarks.encoder_load import running_service
from benchmarks.encoder_quality import EmbeddingsCache, content_hash, part_to_embed, quality
from benchmarks.encoder_short_queries import about, measure_targets
from benchmarks.encoder_systems import Floats
from benchmarks.encoder_texts import judged_collection, texts_of_length
from benchmarks.encoder_worker import Worker
from benchmarks.report import RESULTS, machine, median, percentiles_us
from rpc.terminal import errors_as_sentences
from training.beir import Collection
from training.generated_queries import generated_collection

PHASES = ("quality", "grid", "targets", "report")
LENGTHS = (8, 16, 32, 64, 128)
BATCHES = (1, 8, 32)
TEXTS_TOGETHER = 16  # full precision embeds a corpus so; neighbours change nothing but rounding
IMAGES = Path(__file__).parents[1] / "docs" / "images"


def main() -> None:
    """Run the phases asked for, and say in one sentence what went wrong."""
    with errors_as_sentences():
        run(_parsed())


def run(options: argparse.Namespace) -> None:
    """Run the phases asked for."""
    work = options.work / options.name
    entries = entries_of(options, work)
    collection, judgements = _collection(options)
    for phase in options.phase:
        print(f"{options.name}: {phase}", file=sys.stderr, flush=True)
        if phase == "report":
            shipped = json.loads((options.bundle / "encoder.json").read_text())
            encoder_report.write(
                options.name, work, entries, shipped, options.results, options.images
            )
            continue
        found = _RUN[phase](options, entries, collection)
        state = {"machine": machine() | _versions(), "judgements": judgements, **found}
        (work / f"{phase}.json").write_text(json.dumps(state, indent=2))


def measure_quality(
    options: argparse.Namespace, entries: list[Entry], collection: Collection
) -> dict[str, Any]:
    """Return each system's nearness to full precision and what its vectors find."""
    cache = EmbeddingsCache(options.embeddings_cache or options.work / "embeddings")
    found: dict[str, Any] = {}
    bases: dict[str, Mapping[str, float]] = {}
    local = [entry for entry in entries if entry.kind != "grpc"]
    with workers(options, local) as (running, absent):
        by_key = {entry.key: entry for entry in local}
        full_hash = _model_hash(by_key[FULL])
        for key, worker in running.items():
            model = _model_hash(by_key[key])
            own_items = options.own_items if key == "own" else options.peer_items
            part = part_to_embed(collection, own_items) if "int8" in key or key == "own" else None

            def full(texts: Sequence[str]) -> Floats:
                # The same file on more threads, and texts together, which is sooner done.
                return cache.embedded(full_hash, texts, running["onnx_fp32"], TEXTS_TOGETHER)

            def own(texts: Sequence[str], model: str = model, worker: Worker = worker) -> Floats:
                return cache.embedded(model, texts, worker)

            found[key] = quality(collection, full, own, part, bases)
            print(key, found[key], file=sys.stderr, flush=True)
    return {"quality": found, "absent": absent}


def measure_grid(
    options: argparse.Namespace, entries: list[Entry], _: Collection
) -> dict[str, Any]:
    """Return latency and rate by length and batch, systems in turn in each round."""
    tokenizer = Tokenizer.from_file(str(options.bundle / "tokenizer.json"))
    cells: list[dict[str, Any]] = []
    with running_service(options.bundle) as address:
        served = [
            replace(entry, files={"address": address}) if entry.kind == "grpc" else entry
            for entry in entries
        ]
        with workers(options, served) as (running, absent):
            systems = about(running)
            for length in options.lengths:
                for batch in options.batches:
                    texts = texts_of_length(tokenizer, length, batch * 16, seed=length)
                    batches = [texts[at : at + batch] for at in range(0, len(texts), batch)]
                    cells += _cell(options, running, batches, length, batch)
    return {"grid": cells, "absent": absent, "about": systems, "seconds": options.seconds}


def _cell(
    options: argparse.Namespace,
    running: dict[str, Worker],
    batches: list[list[str]],
    length: int,
    batch: int,
) -> list[dict[str, Any]]:
    rounds: dict[str, list[list[float]]] = {key: [] for key in running}
    calls_min = -(-options.lone_calls // options.rounds) if batch == 1 else 1
    for _ in range(options.rounds):
        for key, worker in running.items():
            rounds[key].append(worker.times_us(batches, options.seconds, calls_min))
    return [
        {
            "system": key, "tokens": length, "batch": batch,
            **percentiles_us(of_rounds),
            "texts_a_second": median(
                [batch * len(one) / sum(one) * 1e6 for one in of_rounds]
            ),
        }
        for key, of_rounds in rounds.items()
    ]  # fmt: skip


def _model_hash(entry: Entry) -> str:
    """Return what an entry's vectors depend on: its file's content, and torch's own ways."""
    weights = entry.model.with_suffix(".bin")
    paths = [entry.model] + ([weights] if entry.model.suffix == ".xml" else [])
    content = content_hash(*paths)
    return f"{entry.kind}-{content}" if entry.kind.startswith("torch") else content


def _collection(options: argparse.Namespace) -> tuple[Collection, str]:
    if options.quick:
        return generated_collection(100, 30), "generated: queries are words of one item's text each"
    return judged_collection(options.judgements)


def _versions() -> dict[str, str]:
    found = {}
    for package in ("torch", "sentence-transformers", "transformers", "openvino", "nncf"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def _export(model: str, out: Path) -> Path:
    """Export an INT8 bundle with the project's own command, unless it is there."""
    if not out.exists():
        command = [sys.executable, "-m", "training.export", "--model", model, "--out", str(out)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return out


def _parsed() -> argparse.Namespace:
    options = _parser().parse_args()
    if options.quick:
        options.rounds, options.seconds, options.load_seconds = 2, 0.05, 0.5
        options.lengths, options.batches = [8, 32], [1, 8]
        options.overhead_texts, options.own_items, options.peer_items = 40, 50, 50
        options.lone_calls = 4
        options.name = f"{options.name}-quick"
    work = options.work / options.name
    work.mkdir(parents=True, exist_ok=True)
    if options.bundle is None:
        options.bundle = _export(options.model, work / "bundle-int8")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small, in about two minutes")
    parser.add_argument("--name", default="minilm", help="results go to encoder-NAME.json")
    parser.add_argument("--model", default="all-MiniLM-L6-v2", help="folder or hub id")
    parser.add_argument("--bundle", type=Path, help="the bundle served; exported when left out")
    parser.add_argument("--judgements", type=Path, help="a BEIR folder")
    parser.add_argument(
        "--own-items",
        type=int,
        default=1_000_000,
        help="items that Vitrine embeds itself; 0: none, default: all",
    )
    parser.add_argument("--peer-items", type=int, default=10_000, help="the same of INT8 peers")
    parser.add_argument("--embeddings-cache", type=Path, help="folder of vectors to reuse")
    parser.add_argument(
        "--peer-python",
        default=sys.executable,
        help="interpreter with optimum-onnx, for the ONNX backend's row",
    )
    parser.add_argument("--phase", nargs="*", choices=PHASES, default=list(PHASES))
    parser.add_argument("--systems", nargs="*", help="keys to measure; all when left out")
    parser.add_argument("--lengths", type=int, nargs="*", default=list(LENGTHS))
    parser.add_argument("--batches", type=int, nargs="*", default=list(BATCHES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.3, help="a system, case and round")
    parser.add_argument("--lone-calls", type=int, default=200, help="the same of one text, least")
    parser.add_argument("--load-seconds", type=float, default=5.0, help="a round of 64 callers")
    parser.add_argument("--overhead-texts", type=int, default=600)
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "vitrine-encoder-benchmark"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--images", type=Path, default=IMAGES)
    return parser  # fmt: skip


_RUN = {"quality": measure_quality, "grid": measure_grid, "targets": measure_targets}

if __name__ == "__main__":
    main()
