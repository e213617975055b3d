"""Collections of items, queries and relevance judgements in the BEIR folder layout.

    DIR/corpus.jsonl[.gz]     {"_id": "...", "title": "...", "text": "..."} a line
    DIR/queries.jsonl[.gz]    {"_id": "...", "text": "..."} a line
    DIR/qrels/SPLIT.tsv       query-id, corpus-id and an integer grade; the header may be missing;
                              of two grades for the same pair the later one holds

`load_collection` returns a `Collection`: items and queries as parallel tuples of ids and texts, in
the order of the files, ready to be embedded; judgements as query id -> item id -> grade.
`narrow` cuts one down to fewer items while it keeps every judged one.

An item's text is `item_text(title, text)`: title, then text, a space between, as BEIR's own loader
joins them, and runs of white space become one space, as `vitrine` makes of every item. With an
empty text it is what the item template "{title}" gives. Prompts are the caller's to add.
"""

import gzip
import random
import zlib
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from rpc.terminal import CommandError

DEFAULT_SPLIT = "test"
# What gzip raises of a file that ends early, is none, or whose bytes were damaged.
BROKEN_GZIP = (EOFError, gzip.BadGzipFile, zlib.error)


@dataclass(frozen=True, slots=True)
class Collection:
    """Items to search, queries that were judged, and the judgements.

    Attributes:
        name: the folder's name.
        item_ids: unique ids of all items.
        item_texts: what each item is embedded from.
        query_ids: unique ids of the queries with at least one judgement.
        query_texts: what was typed.
        qrels: query id -> item id -> grade; 1 and more is relevant. Every id in it is known.
        unknown_queries: judgements left out because no such query is there.
        unknown_items: judgements left out because no such item is there.
    """

    name: str
    item_ids: tuple[str, ...]
    item_texts: tuple[str, ...]
    query_ids: tuple[str, ...]
    query_texts: tuple[str, ...]
    qrels: Mapping[str, Mapping[str, int]]
    unknown_queries: int = 0
    unknown_items: int = 0


def load_collection(folder: Path, split: str = DEFAULT_SPLIT) -> Collection:
    """Return the collection in a folder, with the judgements of one split.

    Raises:
        CommandError: a file is missing or a line cannot be understood, an id stands twice, or no
            judgement is left.
    """
    items = _read_texts(find_file(folder, "corpus"), item=True)
    queries = _read_texts(find_file(folder, "queries"), item=False)
    path = folder / "qrels" / f"{split}.tsv"
    judgements = list(read_judgements(path))
    qrels: dict[str, dict[str, int]] = {}
    for query_id, item_id, grade in judgements:
        if query_id in queries and item_id in items:
            qrels.setdefault(query_id, {})[item_id] = grade
    if not qrels:
        raise CommandError(
            f"{path}: none of its {len(judgements)} judgements is of a known query and item"
        )
    judged = [query_id for query_id in queries if query_id in qrels]
    return Collection(
        name=folder.resolve().name,
        item_ids=tuple(items),
        item_texts=tuple(items.values()),
        query_ids=tuple(judged),
        query_texts=tuple(queries[query_id] for query_id in judged),
        qrels=qrels,
        unknown_queries=sum(query_id not in queries for query_id, _, _ in judgements),
        unknown_items=sum(item_id not in items for _, item_id, _ in judgements),
    )


def narrow(collection: Collection, num_items: int, num_queries: int, seed: int) -> Collection:
    """Return a collection of fewer queries, all items judged for them, and others at random.

    Args:
        collection: what to draw from; order is kept.
        num_items: items to keep; more when more are judged for the queries kept.
        num_queries: queries to keep.
        seed: the same seed draws the same.
    """
    rng = random.Random(seed)  # noqa: S311 - sampling, not secrecy
    chosen = rng.sample(collection.query_ids, min(num_queries, len(collection.query_ids)))
    qrels = {query_id: collection.qrels[query_id] for query_id in sorted(chosen)}
    kept = {item_id for judged in qrels.values() for item_id in judged}
    others = [item_id for item_id in collection.item_ids if item_id not in kept]
    kept |= set(rng.sample(others, max(0, min(num_items - len(kept), len(others)))))
    item_ids, item_texts = _only(kept, collection.item_ids, collection.item_texts)
    query_ids, query_texts = _only(qrels, collection.query_ids, collection.query_texts)
    return replace(
        collection,
        item_ids=item_ids,
        item_texts=item_texts,
        query_ids=query_ids,
        query_texts=query_texts,
        qrels=qrels,
    )


def item_text(title: str, text: str) -> str:
    r"""Return what an item is embedded from.

    >>> item_text("Rain  boots", "Keep feet\ndry."), item_text("Rain boots", "")
    ('Rain boots Keep feet dry.', 'Rain boots')
    """
    return " ".join(f"{title} {text}".split())


def find_file(folder: Path, stem: str) -> Path:
    """Return the plain file of a name, else the compressed one.

    Raises:
        CommandError: there is neither.
    """
    for name in (f"{stem}.jsonl", f"{stem}.jsonl.gz"):
        if (folder / name).is_file():
            return folder / name
    raise CommandError(f"{folder}: no {stem}.jsonl or {stem}.jsonl.gz: this is no BEIR folder")


def entries_of(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a JSONL file, each with its place, "FILE:LINE".

    Raises:
        CommandError: a line is no JSON object, or the file is not whole.
    """
    for number, line in _lines(path):
        at = f"{path}:{number}"
        try:
            entry = orjson.loads(line)
        except orjson.JSONDecodeError as exc:
            raise CommandError(f"{at}: not valid JSON: {exc}") from exc
        if not isinstance(entry, dict):
            raise CommandError(f"{at}: not a JSON object")
        yield at, entry


def text_of(entry: Mapping[str, Any], field: str, at: str, *, required: bool = True) -> str:
    """Return a text of an entry; "" where there is none and it need not be.

    Raises:
        CommandError: it is anything else.
    """
    value = entry.get(field)
    if value is None and not required:
        return ""
    if not isinstance(value, str) or (required and not value):
        raise CommandError(f"{at}: {field} is {value!r}; a text is needed")
    return value


def _only(
    kept: Container[str], ids: Sequence[str], texts: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the ids that are kept, and their texts."""
    rows = [row for row, known in enumerate(ids) if known in kept]
    return tuple(ids[row] for row in rows), tuple(texts[row] for row in rows)


def _read_texts(path: Path, *, item: bool) -> dict[str, str]:
    """Return id -> text in the order of a JSONL file."""
    texts: dict[str, str] = {}
    for at, entry in entries_of(path):
        key = text_of(entry, "_id", at)
        if key in texts:
            raise CommandError(f"{at}: _id {key!r} stands there twice")
        text = text_of(entry, "text", at, required=not item)
        title = text_of(entry, "title", at, required=False) if item else ""
        texts[key] = item_text(title, text)
    return texts


def read_judgements(path: Path) -> Iterator[tuple[str, str, int]]:
    """Yield query id, item id and grade of every judgement in a file.

    Raises:
        CommandError: there is no such file, or a line of it is no judgement.
    """
    if not path.is_file():
        there = ", ".join(sorted(found.stem for found in path.parent.glob("*.tsv"))) or "none"
        raise CommandError(f"{path}: no such judgements; splits there: {there}")
    for number, line in _lines(path):
        columns = line.decode("utf-8", errors="replace").rstrip("\r\n").split("\t")
        if number == 1 and columns[-1].strip() == "score":
            continue
        try:
            query_id, item_id, written = columns
            grade = int(written)
        except ValueError as exc:
            raise CommandError(
                f"{path}:{number}: not a query id, an item id and an integer grade with tabs "
                f"between: {line[:80]!r}"
            ) from exc
        yield query_id, item_id, grade


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank, with their 1-based numbers."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    except BROKEN_GZIP as exc:
        raise CommandError(f"{path}: is not a whole gzip file: {exc}") from exc
