"""Reviews and items as Amazon Reviews 2023 publishes them, read as a stream.

Review files have an object a line with `rating`, `title`, `text` and `parent_asin` (else `asin`);
item files (`meta_*.jsonl.gz`) have `parent_asin`, `title`, `store`, `main_category`, `features`
and `description`. Items as `gateway.ingest` reads them (`item_id`, `texts`, `attributes`) are read,
too. A line that cannot be used is counted under its reason in `Skipped` and passed over.
"""

import gzip
import html
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

import orjson

from rpc.terminal import CommandError, progress_bar
from training.beir import BROKEN_GZIP

LINE_BYTES_MAX = 8 << 20
UNESCAPES_MAX = 3
RATING_RANGE = (1.0, 5.0)
_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,200}>")
_LINK = re.compile(r"\[\[(?:VIDEOID|ASIN):[^\]]*\]\]")


@dataclass(frozen=True, slots=True)
class Review:
    """What one shopper wrote: the item's id, 1..5 stars, title and text as one."""

    item_id: str
    rating: float
    text: str


@dataclass(frozen=True, slots=True)
class Item:
    """What the shop says about an item; texts are plain, and empty where not known."""

    item_id: str
    title: str
    brand: str
    category: str
    description: str


@dataclass(slots=True)
class Skipped:
    """How many records were left out, by reason."""

    reviews: Counter[str] = field(default_factory=Counter)
    items: Counter[str] = field(default_factory=Counter)


class Unusable(Exception):
    """Why a record is left out; the reason is the argument."""


_Record = TypeVar("_Record", Review, Item)


def read_reviews(paths: Sequence[Path], skipped: Skipped) -> Iterator[Review]:
    """Yield the reviews that have an item, a rating and words.

    Raises:
        CommandError: a file is missing or no whole gzip file.
    """
    yield from _read(paths, "reading reviews", parse_review, skipped.reviews)


def read_items(paths: Sequence[Path], skipped: Skipped) -> dict[str, Item]:
    """Return items by id; of one id the first is kept.

    Raises:
        CommandError: a file is missing or no whole gzip file, or no item can be used.
    """
    items: dict[str, Item] = {}
    for item in _read(paths, "reading items", parse_item, skipped.items):
        if item.item_id in items:
            skipped.items["duplicate_item_id"] += 1
        else:
            items[item.item_id] = item
    if not items:
        raise CommandError(f"no item in {_names(paths)} can be used: {dict(skipped.items)}")
    return items


def parse_review(record: Mapping[str, Any]) -> Review:
    """Return a review.

    Raises:
        Unusable: it has no item, rating or text.

    >>> parse_review({"asin": "B1", "rating": 5, "title": "Nice", "text": "Soft&#33;<br />Warm."})
    Review(item_id='B1', rating=5.0, text='Nice. Soft! Warm.')
    """
    rating = record.get("rating")
    if isinstance(rating, bool) or not isinstance(rating, int | float):
        raise Unusable("no_rating")
    if not RATING_RANGE[0] <= rating <= RATING_RANGE[1]:
        raise Unusable("invalid_rating")
    title, text = plain_text(record.get("title")), plain_text(record.get("text"))
    if not title and not text:
        raise Unusable("no_text")
    between = " " if title.endswith((".", "!", "?")) else ". "
    return Review(_id_of(record), float(rating), between.join(filter(None, (title, text))))


def parse_item(record: Mapping[str, Any]) -> Item:
    """Return an item.

    Raises:
        Unusable: it has no id or no title.
    """
    title = plain_text(record.get("title"))
    item_id = _id_of(record)
    if not title:
        raise Unusable("no_title")
    details = _mapping(record.get("details"))
    attributes = _mapping(record.get("attributes"))
    texts = _mapping(record.get("texts"))
    parts = (record.get("features"), record.get("description"), *texts.values())
    return Item(
        item_id=item_id,
        title=title,
        brand=_first(record.get("store"), details.get("Brand"), attributes.get("brand")),
        category=_first(record.get("main_category"), attributes.get("category")),
        description=" ".join(filter(None, map(plain_text, parts))),
    )


def plain_text(value: Any) -> str:
    """Return a text, or a list of them, without HTML, entities, links and runs of white space.

    Anything else is "". Shops escape texts that are escaped already.

    >>> plain_text("Soft &amp; warm<br />[[VIDEOID:a1]] 3 < 4"), plain_text(["a", None, [["b"]]])
    ('Soft & warm 3 < 4', 'a b')
    >>> plain_text("Men&amp;amp;#39;s")
    "Men's"
    """
    found: list[str] = []
    left = [value]
    while left:  # lists in lists may be nested deeper than Python calls itself
        match left.pop():
            case str() as text:
                found += _LINK.sub(" ", _TAG.sub(" ", _unescaped(text))).split()
            case list() as several:
                left += reversed(several)
    return " ".join(found)


def _unescaped(text: str) -> str:
    """Return a text without entities, also where they were escaped again."""
    for _ in range(UNESCAPES_MAX):
        before, text = text, html.unescape(text)
        if text == before:
            break
    return text


def _read(
    paths: Sequence[Path],
    what: str,
    parse: Callable[[Mapping[str, Any]], _Record],
    skipped: Counter[str],
) -> Iterator[_Record]:
    """Yield what can be parsed, a file after the other; the bar counts MiB as they lie on disk."""
    sizes = [_size_mib(path) for path in paths]
    with progress_bar(f"{what} (MiB)", sum(sizes)) as advance:
        for path, size_mib in zip(paths, sizes, strict=True):
            shown_mib = 0
            for line, read_mib in _lines(path):
                if read_mib > shown_mib:
                    advance(min(read_mib, size_mib) - shown_mib)
                    shown_mib = read_mib
                try:
                    yield parse(_record(line))
                except Unusable as unusable:
                    skipped[str(unusable)] += 1
            advance(size_mib - min(shown_mib, size_mib))


def _lines(path: Path) -> Iterator[tuple[bytes, int]]:
    """Yield lines that are not blank, and how many MiB of the file were read by then."""
    try:
        with path.open("rb") as raw:
            file: IO[bytes] = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw  # type: ignore[assignment]
            while line := file.readline(LINE_BYTES_MAX + 1):
                if line.strip():
                    yield line, raw.tell() >> 20
                while len(line) > LINE_BYTES_MAX and not line.endswith(b"\n"):
                    line = file.readline(LINE_BYTES_MAX + 1)  # what is left of it is no other line
    except BROKEN_GZIP as exc:
        raise CommandError(f"{path}: is not a whole gzip file: {exc}") from exc


def _record(line: bytes) -> Mapping[str, Any]:
    if len(line) > LINE_BYTES_MAX:
        raise Unusable("too_long")
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise Unusable("not_json") from None
    if not isinstance(record, dict):
        raise Unusable("not_json")
    return record


def _size_mib(path: Path) -> int:
    if not path.is_file():
        raise CommandError(f"{path}: no such file")
    return (path.stat().st_size >> 20) + 1


def _id_of(record: Mapping[str, Any]) -> str:
    for name in ("parent_asin", "asin", "item_id"):
        value = record.get(name)
        # Ids go into TSV files and TREC runs, whose columns white space ends.
        if isinstance(value, str) and value:
            if value.split() != [value]:
                raise Unusable("invalid_item_id")
            return value
    raise Unusable("no_item_id")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _first(*values: Any) -> str:
    return next(filter(None, map(plain_text, values)), "")


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(str(path) for path in paths) or "no file"
