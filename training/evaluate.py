"""Compare systems on a data set, and say how sure the differences are.

`python -m training.evaluate --data DIR --system bm25 --system all-MiniLM-L6-v2 --out DIR`; the data
set is any BEIR folder. A system is `bm25`, a sentence-transformers bi-encoder, or an encoder
bundle; `NAME=SYSTEM` names it. OUT then holds `report.md`, `results.json` and `runs/NAME.trec`.

Where the data set is one of reviews (`training.dataset`), a review is answered by any item of its
title, and those items count as one: recall@k is the share of reviews that are answered among the
first k.
"""

import gzip
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import orjson
import typer

from rpc.terminal import CommandError, errors_as_sentences, print_result
from training.baselines import Bm25, tokenize, tune
from training.beir import Collection, load_collection
from training.embeddings import embed, open_encoder
from training.ranking import Evaluation, Qrels, Rows, Run, evaluate, exact_top_k, run_of
from training.report import System, write_report
from training.significance import bootstrap_interval, paired_p_value

MEASURES = ("recall@1", "recall@10", "recall@50", "recall@100", "mrr@10", "ndcg@10")
DEPTH = 100
TUNED_ON = "recall@10"
RESULTS_FILE = "results.json"
LENGTHS = ((1, 20), (21, 50), (51, 100), (101, None))
SEGMENT_QUERIES_MIN = 30

Search = Callable[[Sequence[str]], Rows]


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """What to compare, and on what."""

    data: Path
    systems: Sequence[str]
    out: Path
    cache: Path
    split: str = "test"
    baseline: str = ""
    masked: bool = False


@dataclass(frozen=True, slots=True)
class Topic:
    """What is known of a query beside its text; empty where the data set does not say.

    Attributes:
        product: queries of one product are not independent of each other.
        masked: the query without the words of its product's title and brand.
        segments: kind of segment -> the one that the query is in.
    """

    product: str
    masked: str
    segments: Mapping[str, str]


def compare(options: EvaluateOptions) -> dict[str, Any]:
    """Evaluate every system, write runs, results and report; return the results.

    Raises:
        CommandError: data set, system or baseline does not fit.
    """
    named = dict(map(split_name, options.systems))
    baseline = options.baseline or next(iter(named))
    if baseline not in named:
        raise CommandError(f"baseline is {baseline!r}; allowed {', '.join(named)}")
    topics = read_topics(options.data)
    collection = load_collection(options.data, options.split)
    same_title = is_of_reviews(options.data)
    if options.masked:
        collection = with_masked_queries(collection, topics)
    (options.out / "runs").mkdir(parents=True, exist_ok=True)
    found: dict[str, Evaluation] = {}
    notes: dict[str, str] = {}
    for name, system in named.items():
        search, notes[name] = open_system(system, collection, options, same_title=same_title)
        run = run_of(collection.query_ids, collection.item_ids, search(collection.query_texts))
        write_trec(options.out / "runs" / f"{name}.trec", run, name)
        found[name] = measure(collection.qrels, run, same_title=same_title)
    systems = summarize(found, notes, baseline, topics)
    results = {
        "data": collection.name,
        "split": options.split,
        "masked": options.masked,
        "queries": len(collection.query_ids),
        "items": len(collection.item_ids),
        "same_title": same_title,
        "baseline": baseline,
        "systems": {name: system.document() for name, system in systems.items()},
    }
    (options.out / RESULTS_FILE).write_bytes(orjson.dumps(results, option=orjson.OPT_INDENT_2))
    write_report(options.out, results, systems)
    return results


def open_system(
    system: str, collection: Collection, options: EvaluateOptions, *, same_title: bool
) -> tuple[Search, str]:
    """Return a search over the collection's items, and what is worth knowing about it."""
    if system == "bm25":
        return _open_bm25(collection, options, same_title=same_title)
    encoder = open_encoder(system)
    items = embed(encoder, collection.item_texts, options.cache, f"items by {encoder.name}")

    def search(queries: Sequence[str]) -> Rows:
        vectors = embed(encoder, queries, options.cache, f"queries by {encoder.name}")
        return exact_top_k(vectors, items, DEPTH)[0]

    return search, f"{encoder.dim} dimensions, exact"


def measure(qrels: Qrels, run: Run, *, same_title: bool) -> Evaluation:
    """Return a run's worth; with `same_title` the items that answer a query count as one."""
    if same_title:
        qrels, run = fold(qrels, run)
    return evaluate(qrels, run, MEASURES)


def fold(qrels: Qrels, run: Run) -> tuple[Qrels, Run]:
    """Return judgements and run in which the relevant items of a query are one.

    It has the place of the first of them in the run; the others are left out.

    >>> fold({"q": {"a": 1, "b": 1}}, {"q": {"x": 3.0, "b": 2.0, "a": 1.0}})
    ({'q': {'relevant': 1}}, {'q': {'x': 3.0, 'relevant': 2.0}})
    """
    folded: dict[str, dict[str, float]] = {}
    for query_id, scores in run.items():
        relevant = qrels.get(query_id, {})
        hits = [score for item_id, score in scores.items() if relevant.get(item_id, 0) > 0]
        others = {item_id: s for item_id, s in scores.items() if relevant.get(item_id, 0) <= 0}
        folded[query_id] = others | ({"relevant": max(hits)} if hits else {})
    return {query_id: {"relevant": 1} for query_id in qrels}, folded


def summarize(
    found: Mapping[str, Evaluation],
    notes: Mapping[str, str],
    baseline: str,
    topics: Mapping[str, Topic],
) -> dict[str, System]:
    """Return each system's measures with intervals, p values against the baseline, segments."""
    systems: dict[str, System] = {}
    for name, evaluation in found.items():
        ids = evaluation.query_ids
        clusters = [topics[each].product if each in topics else each for each in ids]
        values = evaluation.by_query
        base = found[baseline].by_query
        systems[name] = System(
            note=notes[name],
            intervals={m: bootstrap_interval(values[m], clusters) for m in MEASURES},
            p_values={}
            if name == baseline
            else {m: paired_p_value(values[m], base[m], clusters) for m in MEASURES},
            segments=by_segment(evaluation, topics),
        )
    return systems


def by_segment(
    evaluation: Evaluation, topics: Mapping[str, Topic]
) -> dict[str, dict[str, tuple[int, float]]]:
    """Return kind -> segment -> (queries, recall@10), without segments of few queries."""
    places: dict[str, dict[str, list[int]]] = {}
    for place, query_id in enumerate(evaluation.query_ids):
        for kind, segment in topics[query_id].segments.items() if query_id in topics else ():
            places.setdefault(kind, {}).setdefault(segment, []).append(place)
    values = evaluation.by_query[TUNED_ON]
    return {
        kind: {
            segment: (len(rows), float(values[rows].mean()))
            for segment, rows in sorted(segments.items())
            if len(rows) >= SEGMENT_QUERIES_MIN
        }
        for kind, segments in places.items()
    }


def read_topics(folder: Path) -> dict[str, Topic]:
    """Return what queries.jsonl says of its queries beside their texts."""
    path = next((p for p in sorted(folder.glob("queries.jsonl*"))), folder / "queries.jsonl")
    if not path.is_file():
        raise CommandError(
            f"{folder}: no queries.jsonl or queries.jsonl.gz: this is no BEIR folder"
        )
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        entries = [orjson.loads(line) for line in file if line.strip()]
    return {entry["_id"]: topic_of(entry) for entry in entries if entry.get("metadata")}


def topic_of(entry: Mapping[str, Any]) -> Topic:
    """Return a query's topic.

    >>> topic_of({"_id": "q", "metadata": {"tokens": 30, "num_reviews": 1}}).segments
    {'review length': '21-50 words', 'reviews of the product': '1'}
    """
    data = entry["metadata"]
    segments: dict[str, str] = {}
    if data.get("category"):
        segments["category"] = str(data["category"])
    if "tokens" in data:
        segments["review length"] = length_segment(int(data["tokens"]))
    if "num_reviews" in data:
        number = int(data["num_reviews"])
        segments["reviews of the product"] = (
            "1" if number == 1 else "2-4" if number < 5 else "5 and more"
        )
    return Topic(str(data.get("product", entry["_id"])), str(data.get("masked", "")), segments)


def length_segment(tokens: int) -> str:
    """Return the range of lengths that so many words are in.

    >>> length_segment(20), length_segment(500)
    ('1-20 words', '101 words and more')
    """
    for low, high in LENGTHS:
        if high is not None and tokens <= high:
            return f"{low}-{high} words"
    return f"{LENGTHS[-1][0]} words and more"


def with_masked_queries(collection: Collection, topics: Mapping[str, Topic]) -> Collection:
    """Return the collection with every query masked.

    Raises:
        CommandError: the data set has no masked queries.
    """
    if any(query_id not in topics for query_id in collection.query_ids):
        raise CommandError(
            "--masked: this data set has no masked queries; training.dataset makes them"
        )
    return replace(
        collection, query_texts=tuple(topics[each].masked for each in collection.query_ids)
    )


def is_of_reviews(folder: Path) -> bool:
    """Tell whether items of the title that a review was written about count as one."""
    path = folder / "dataset.json"
    return path.is_file() and orjson.loads(path.read_bytes()).get("relevance") == "same_title"


def write_trec(path: Path, run: Run, tag: str) -> None:
    """Write a run as TREC tools read it: query, Q0, item, rank, score, tag."""
    with path.open("w", encoding="utf-8") as file:
        for query_id, scores in run.items():
            for rank, (item_id, score) in enumerate(scores.items(), start=1):
                file.write(f"{query_id} Q0 {item_id} {rank} {score:g} {tag}\n")


def split_name(system: str) -> tuple[str, str]:
    """Return the name and the system of `NAME=SYSTEM`; without a name the last part of its path.

    >>> split_name("ours=runs/best/model"), split_name("models/minilm")
    (('ours', 'runs/best/model'), ('minilm', 'models/minilm'))
    """
    name, equals, path = system.partition("=")
    if equals:
        return _allowed(name), path
    return _allowed(system.rstrip("/").rsplit("/", 1)[-1]), system


def _allowed(name: str) -> str:
    if not re.fullmatch(r"[\w.-]{1,64}", name):
        raise CommandError(f"system name is {name!r}; allowed letters, digits, '.', '_', '-'")
    return name


def _open_bm25(
    collection: Collection, options: EvaluateOptions, *, same_title: bool
) -> tuple[Search, str]:
    """Return BM25, tuned where there is a dev split."""
    tokenized = tokenize(collection.item_texts)
    if not (options.data / "qrels" / "dev.tsv").is_file() or options.split == "dev":
        index = Bm25(tokenized)
        note = "not tuned"
    else:
        dev = load_collection(options.data, "dev")

        def worth(tried: Bm25) -> float:
            rows = tried.search(dev.query_texts, 10)[0]
            run = run_of(dev.query_ids, dev.item_ids, rows)
            return measure(dev.qrels, run, same_title=same_title).means[TUNED_ON]

        best, _ = tune(tokenized, worth)
        index = Bm25(tokenized, best)
        note = "tuned on dev"
    parameters = f"k1 {index.parameters.k1}, b {index.parameters.b}, {note}"
    return lambda queries: np.asarray(index.search(queries, DEPTH)[0]), parameters


def main(
    data: Annotated[Path, typer.Option(help="BEIR folder, as training.dataset writes.")],
    system: Annotated[
        list[str],
        typer.Option(help="bm25, a bi-encoder or an encoder bundle; NAME=SYSTEM names it."),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write report, results and runs to.")],
    split: Annotated[str, typer.Option(help="Judgements to use: qrels/SPLIT.tsv.")] = "test",
    baseline: Annotated[
        str, typer.Option(help="System to compare the others with; default: the first.")
    ] = "",
    masked: Annotated[
        bool, typer.Option("--masked", help="Leave the words of the title out of the queries.")
    ] = False,
    cache: Annotated[
        Path, typer.Option(help="Folder of embeddings, kept by encoder and text.")
    ] = Path(".vitrine/embeddings"),
) -> None:
    """Compare systems on a data set."""
    with errors_as_sentences():
        results = compare(EvaluateOptions(data, system, out, cache, split, baseline, masked))
        recalls = {
            name: round(found["measures"][TUNED_ON]["mean"], 4)
            for name, found in results["systems"].items()
        }
        print_result(
            {
                "report": str(out / "report.md"),
                "queries": results["queries"],
                "items": results["items"],
                "recall_at_10": recalls,
            }
        )


if __name__ == "__main__":
    typer.run(main)
