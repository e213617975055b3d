"""Compare systems on a data set, and say how sure the differences are.

`python -m training.evaluate --data DIR --system bm25 --system all-MiniLM-L6-v2 --out DIR`; the data
set is any BEIR folder; `training.system_notation` says how systems are written. OUT then holds
`report.md`, `cases.md`, `results.json` and `runs/NAME.trec`.

Where the data set is one of reviews (`training.dataset`), a review is answered by any item of its
title, and those items count as one: recall@k is the share of reviews that are answered among the
first k.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from rpc.terminal import CommandError, errors_as_sentences, print_result
from training import bundle_records
from training.beir import Collection, load_collection, narrow
from training.cases import write_cases
from training.dataset import is_of_reviews
from training.memory import out_of_memory_as_sentence
from training.ranking import Evaluation, Run, evaluate, run_of
from training.report import write_report
from training.results import System
from training.segments import Queries, read_queries
from training.significance import bootstrap_interval, paired_p_value
from training.system_notation import Written, made_of, parse_systems
from training.systems import TUNED_ON, Ground, Opened, open_system
from training.topics import Topic, read_topics, with_masked_queries

MEASURES = ("recall@1", "recall@10", "recall@50", "recall@100", "mrr@10", "ndcg@10")
RESULTS_FILE = "results.json"
_DEV_SEED = 7


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
    record: bool = False
    reranked_dev_queries: int = 0
    """Fusions with a reranking are tuned on so many queries of dev; 0: on all of them."""
    tune: bool = True
    """False: nothing is tuned, even where there is a dev split."""


@out_of_memory_as_sentence("compare fewer systems at once, or give a data set of fewer items")
def compare(options: EvaluateOptions) -> dict[str, Any]:
    """Evaluate every system, write runs, results and report; return the results.

    What was recorded is in them as well, and what was not, for it keeps too little ("refused").

    Raises:
        CommandError: data set, system or baseline does not fit, nothing can be recorded, or memory
            ran out.
    """
    written = parse_systems(options.systems)
    names = [system.name for system in written]
    baseline = options.baseline or names[0]
    if baseline not in names:
        raise CommandError(f"baseline is {baseline!r}; allowed {', '.join(names)}")
    topics = read_topics(options.data)
    ground = lay_ground(options, topics)
    collection = ground.collection
    if options.record:
        bundle_records.require_recordable(
            written, has_dev=ground.dev is not None, masked=options.masked
        )
    opened, runs, found = search_all(written, ground, options.out / "runs")
    queries = read_queries(options.data, collection.qrels, topics)
    systems = summarize(written, opened, found, baseline, queries)
    results = {
        "data": collection.name,
        "split": options.split,
        "masked": options.masked,
        "queries": len(collection.query_ids),
        "items": len(collection.item_ids),
        "same_title": ground.same_title,
        "baseline": baseline,
        "measures": MEASURES,
        "too_small": queries.too_small(),
        "dev": describe_dev(ground.dev),
        "systems": {name: system.document() for name, system in systems.items()},
    }
    (options.out / RESULTS_FILE).write_bytes(orjson.dumps(results, option=orjson.OPT_INDENT_2))
    write_report(options.out, results, systems)
    write_cases(options.out, collection, runs, baseline, options.data)
    if options.record:
        recorded, refused = bundle_records.record(written, opened, results)
        results |= {"recorded": recorded, "refused": refused}
    return results


def search_all(
    written: Sequence[Written], ground: Ground, folder: Path
) -> tuple[dict[str, Opened], dict[str, Run], dict[str, Evaluation]]:
    """Return each system by its name, opened, what it found, and what that is worth.

    Args:
        written: in an order in which each stands behind what it is made of.
        ground: what to search in.
        folder: where runs are written.
    """
    collection = ground.collection
    folder.mkdir(parents=True, exist_ok=True)
    opened: dict[str, Opened] = {}
    runs: dict[str, Run] = {}
    found: dict[str, Evaluation] = {}
    for name, system in ((system.name, system) for system in written):
        opened[name] = open_system(system, ground, opened)
        rows = opened[name].search(collection.query_texts).rows
        runs[name] = run_of(collection.query_ids, collection.item_ids, rows)
        write_trec(folder / f"{name}.trec", runs[name], name)
        measures = measures_within(rows.shape[1], len(collection.item_ids))
        found[name] = evaluate(collection.qrels, runs[name], measures, as_one=ground.same_title)
    return opened, runs, found


def measures_within(hits: int, num_items: int) -> list[str]:
    """Return the measures that are no deeper than a system looks.

    Args:
        hits: that it would give a query; it may find fewer.
        num_items: of the collection; who looks at all of them has every measure.

    >>> measures_within(2, 100)
    ['recall@1']
    """
    return [m for m in MEASURES if hits >= min(int(m.partition("@")[2]), num_items)]


def recalls_of(results: Mapping[str, Any]) -> dict[str, float | None]:
    """Return recall@10 of every system of a comparison; None of one that finds fewer."""
    measured = {name: found["measures"] for name, found in results["systems"].items()}
    return {
        name: round(found[TUNED_ON]["mean"], 4) if TUNED_ON in found else None
        for name, found in measured.items()
    }


def describe_dev(dev: Collection | None) -> dict[str, Any] | None:
    """Return what weights were tuned on."""
    if dev is None:
        return None
    sizes = {"queries": len(dev.query_ids), "items": len(dev.item_ids)}
    return {"data": dev.name, "split": "dev", **sizes, "measure": TUNED_ON}


def lay_ground(options: EvaluateOptions, topics: Mapping[str, Topic]) -> Ground:
    """Return the collection to search and what to tune on: dev, where that is another split."""
    collection = load_collection(options.data, options.split)
    has_dev = (options.data / "qrels" / "dev.tsv").is_file() and options.split != "dev"
    dev = load_collection(options.data, "dev") if has_dev and options.tune else None
    if options.masked:
        collection = with_masked_queries(collection, topics)
        dev = with_masked_queries(dev, topics) if dev else None
    few = _fewer_queries(dev, options.reranked_dev_queries) if dev else None
    return Ground(
        collection,
        dev,
        is_of_reviews(options.data),
        options.cache,
        few_of_dev=few if few is not dev else None,
    )


def _fewer_queries(dev: Collection, num_queries: int) -> Collection:
    """Return dev with so many of its queries at most, drawn at random; 0 for all of them."""
    if not 0 < num_queries < len(dev.query_ids):
        return dev
    return narrow(dev, len(dev.item_ids), num_queries, _DEV_SEED)


def summarize(
    written: Sequence[Written],
    opened: Mapping[str, Opened],
    found: Mapping[str, Evaluation],
    baseline: str,
    queries: Queries,
) -> dict[str, System]:
    """Return each system's measures with intervals, p values against the baseline, segments."""
    by_name = {system.name: system for system in written}
    base = found[baseline].by_query
    systems: dict[str, System] = {}
    for name, system in by_name.items():
        values = found[name].by_query
        compared = [m for m in values if m in base] if name != baseline else []
        systems[name] = System(
            note=opened[name].note,
            p50_ms=opened[name].p50_ms,
            query_ms=spent_ms(made_of(name, by_name), opened),
            encoder=f"{system.source}@{system.items}" if system.kind == "encoder" else "",
            options=opened[name].options,
            ann_recall=opened[name].ann_recall,
            intervals={m: bootstrap_interval(values[m], queries.products) for m in values},
            p_values={m: paired_p_value(values[m], base[m], queries.products) for m in compared},
            segments=queries.means(values[TUNED_ON]) if TUNED_ON in values else {},
        )
    return systems


def spent_ms(names: Iterable[str], opened: Mapping[str, Opened]) -> float:
    """Return what some systems take for a query together: the sum of their parts' p50s."""
    return round(sum(sum(opened[name].p50_ms.values()) for name in sorted(names)), 3)


def write_trec(path: Path, run: Run, tag: str) -> None:
    """Write a run as TREC tools read it: query, Q0, item, rank, score, tag."""
    with path.open("w", encoding="utf-8") as file:
        for query_id, scores in run.items():
            for rank, (item_id, score) in enumerate(scores.items(), start=1):
                file.write(f"{query_id} Q0 {item_id} {rank} {score:g} {tag}\n")


def main(
    data: Annotated[Path, typer.Option(help="BEIR folder, as training.dataset writes.")],
    system: Annotated[
        list[str],
        typer.Option(
            help="bm25, a bi-encoder or bundle, PATH?dim=256, PATH?ef_search=64, rrf:A+B, "
            "weighted:A+B, rerank:A+PATH?depth=50; NAME=SYSTEM names it."
        ),
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
    record: Annotated[
        bool,
        typer.Option(
            "--record",
            help="Write into the bundles: fusion weights tuned on dev, query encoders that do.",
        ),
    ] = False,
    reranked_dev_queries: Annotated[
        int,
        typer.Option(
            min=0, help="Tune fusions with a reranking on so many queries of dev; 0: on all."
        ),
    ] = 0,
) -> None:
    """Compare systems on a data set."""
    with errors_as_sentences():
        results = compare(
            EvaluateOptions(
                data, system, out, cache, split, baseline, masked, record, reranked_dev_queries
            )
        )
        print_result(
            {
                "report": str(out / "report.md"),
                "queries": results["queries"],
                "items": results["items"],
                "recall_at_10": recalls_of(results),
                **({"recorded": results["recorded"]} if record else {}),
            }
        )
        if record and results["refused"]:
            raise CommandError("; ".join(results["refused"]))


if __name__ == "__main__":
    typer.run(main)
