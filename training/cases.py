"""Queries that a system won or lost against the baseline, and how often it fails in known ways.

Failure signatures are those of the paper (arXiv 2602.00899, section on errors): the query names a
brand and the first result is of another (brand drift), or names a color, size, material or
audience that the right item has and the first result has not (an attribute ignored).
"""

import gzip
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import orjson

from training.attributes import ATTRIBUTES
from training.beir import Collection
from training.leakage import words_of
from training.ranking import Run

CASES_FILE = "cases.md"
NUM_CASES = 5
RANK_MAX = 100
TEXT_MAX = 240
WordsOf = Callable[[str], frozenset[str]]


@dataclass(frozen=True, slots=True)
class Case:
    """A query, and where each of two systems has its right item; RANK_MAX + 1 where it has not."""

    query_id: str
    rank: int
    baseline_rank: int

    @property
    def gain(self) -> float:
        """How much better the system answers it, in reciprocal ranks, -1..1."""
        return 1.0 / self.rank - 1.0 / self.baseline_rank


@dataclass(frozen=True, slots=True)
class Signature:
    """How often a query names what its right item has, and how often the first result lacks it."""

    named: int
    missed: int

    def __str__(self) -> str:
        """Return it as the table has it."""
        return f"{self.missed} of {self.named} ({self.missed / max(1, self.named):.1%})"


def write_cases(
    out: Path, collection: Collection, runs: Mapping[str, Run], baseline: str, data: Path
) -> None:
    """Write cases.md: signatures of every system, then wins and losses against the baseline."""
    brands = read_brands(data)
    titles = _titles(collection)
    ignored = " | ".join(f"{attribute} ignored" for attribute in ATTRIBUTES)
    lines = [
        "# Cases",
        "",
        "Queries that name the brand of their right item, or an attribute that its",
    ]
    lines += ["text has, and the first result is of another brand, or has none of those named:", ""]
    lines += [f"| system | brand drift | {ignored} |", "|---|---" + "|---" * len(ATTRIBUTES) + "|"]
    for name, run in runs.items():
        drift = signature(collection, run, brands.get, words_of)
        found = [signature(collection, run, titles.get, named) for named in ATTRIBUTES.values()]
        lines.append(f"| {name} | {' | '.join(map(str, [drift, *found]))} |")
    for name, run in runs.items():
        if name != baseline:
            lines += _cases_lines(name, collection, run, runs[baseline])
    (out / CASES_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")


def compare_ranks(collection: Collection, run: Run, baseline: Run) -> list[Case]:
    """Return every query with its ranks, most gained first, ties by id."""
    cases = [
        Case(
            query_id,
            first_rank(run.get(query_id, {}), collection.qrels[query_id]),
            first_rank(baseline.get(query_id, {}), collection.qrels[query_id]),
        )
        for query_id in collection.query_ids
    ]
    return sorted(cases, key=lambda case: (-case.gain, case.query_id))


def first_rank(scores: Mapping[str, float], relevant: Mapping[str, int]) -> int:
    """Return the 1-based rank of the first relevant item; RANK_MAX + 1 without one.

    >>> first_rank({"a": 3.0, "b": 2.0}, {"b": 1}), first_rank({"a": 3.0}, {"b": 1})
    (2, 101)
    """
    ranked = sorted(scores, key=lambda item_id: -scores[item_id])[:RANK_MAX]
    places = (rank for rank, item_id in enumerate(ranked, 1) if relevant.get(item_id, 0) > 0)
    return next(places, RANK_MAX + 1)


def first_of(scores: Mapping[str, float]) -> str:
    """Return the item of the largest score; "" without any.

    >>> first_of({"a": 1.0, "b": 2.0})
    'b'
    """
    return max(scores, key=lambda item_id: scores[item_id], default="")


def signature(
    collection: Collection,
    run: Run,
    said_of: Callable[[str, str], str | None],
    words: WordsOf,
) -> Signature:
    """Count queries that name what their right item has, and the first result has none of it.

    A query whose first result nothing is known of is not counted.

    Args:
        collection: queries and judgements.
        run: what was found.
        said_of: from an item's id, and a default, to the text that the words are looked for in.
        words: what a text names.
    """
    named = missed = 0
    for query_id, query in zip(collection.query_ids, collection.query_texts, strict=True):
        right = (i for i, grade in collection.qrels[query_id].items() if grade > 0)
        wanted = frozenset().union(*(words(said_of(i, "") or "") for i in right))
        wanted &= words(query)
        said = said_of(first_of(run.get(query_id, {})), "")
        if wanted and said:
            named += 1
            missed += not wanted & words(said)
    return Signature(named, missed)


def read_brands(folder: Path) -> dict[str, str]:
    """Return the brand of each item whose line in corpus.jsonl says one."""
    path = next(iter(sorted(folder.glob("corpus.jsonl*"))))
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        entries = (orjson.loads(line) for line in file if line.strip())
        found = {e["_id"]: str((e.get("metadata") or {}).get("brand") or "") for e in entries}
    return {item_id: brand for item_id, brand in found.items() if brand}


def _cases_lines(name: str, collection: Collection, run: Run, baseline: Run) -> list[str]:
    cases = compare_ranks(collection, run, baseline)
    titles = _titles(collection)
    queries = dict(zip(collection.query_ids, collection.query_texts, strict=True))
    lines: list[str] = []
    for what, some in (("Wins", cases[:NUM_CASES]), ("Losses", cases[: -NUM_CASES - 1 : -1])):
        lines += ["", f"## {what} of {name}"]
        for case in some:
            if (case.gain > 0) == (what == "Wins") and case.gain:
                lines += ["", *_case_lines(case, queries, titles, collection, run)]
    return lines


def _case_lines(
    case: Case,
    queries: Mapping[str, str],
    titles: Mapping[str, str],
    collection: Collection,
    run: Run,
) -> list[str]:
    right = next(i for i, grade in collection.qrels[case.query_id].items() if grade > 0)
    first = first_of(run.get(case.query_id, {}))
    return [
        f"- **{case.query_id}**, {_rank(case.rank)}, baseline {_rank(case.baseline_rank)}: "
        f"{queries[case.query_id][:TEXT_MAX]}",
        f"  - right: {titles[right][:TEXT_MAX]}",
        f"  - first: {titles.get(first, 'nothing')[:TEXT_MAX]}",
    ]


def _rank(rank: int) -> str:
    """Return a rank for people.

    >>> _rank(3), _rank(101)
    ('rank 3', 'not in the first 100')
    """
    return f"rank {rank}" if rank <= RANK_MAX else f"not in the first {RANK_MAX}"


def _titles(collection: Collection) -> dict[str, str]:
    return dict(zip(collection.item_ids, collection.item_texts, strict=True))
