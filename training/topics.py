"""What is known of a query beside its text: its product, its segments, itself without the title."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rpc.terminal import CommandError
from training.beir import Collection, entries_of, find_file, text_of

LENGTHS = ((1, 20), (21, 50), (51, 100), (101, None))
TITLE_PERCENTS = ((0, 0), (1, 24), (25, 49), (50, 100))


@dataclass(frozen=True, slots=True)
class Topic:
    """What is known of a query beside its text.

    Attributes:
        product: queries of one product are not independent of each other.
        masked: the query without the words of its product's title and brand; None where the data
            set does not say.
        segments: kind of segment -> the one that the query is in.
    """

    product: str
    masked: str | None
    segments: Mapping[str, str]


def read_topics(folder: Path) -> dict[str, Topic]:
    """Return what queries.jsonl says of its queries beside their texts.

    Raises:
        CommandError: there is none, or a line of it cannot be understood.
    """
    return {
        text_of(entry, "_id", at): topic_of(entry, at)
        for at, entry in entries_of(find_file(folder, "queries"))
        if entry.get("metadata")
    }


def topic_of(entry: Mapping[str, Any], at: str) -> Topic:
    """Return a query's topic; `at` says where it stands.

    Raises:
        CommandError: it cannot be understood.

    >>> topic_of({"_id": "q", "metadata": {"tokens": 30, "title_percent": 0}}, "here").segments
    {'review length': '21-50 words', 'title words in the review': '0 %'}
    """
    data = entry["metadata"]
    if not isinstance(data, dict):
        raise CommandError(f"{at}: metadata is {data!r}; an object is needed")
    segments: dict[str, str] = {}
    if category := str(data.get("category") or "").strip():
        segments["category"] = category
    if (tokens := _count(data, "tokens", at)) is not None:
        segments["review length"] = length_segment(tokens)
    if (number := _count(data, "num_reviews", at)) is not None:
        segments["reviews of the product"] = (
            "1" if number == 1 else "2-4" if number < 5 else "5 and more"
        )
    if (percent := _count(data, "title_percent", at)) is not None:
        segments["title words in the review"] = title_segment(percent)
    masked, product = data.get("masked"), data.get("product")
    if not isinstance(masked, str | None):
        raise CommandError(f"{at}: metadata.masked is {masked!r}; a text is needed")
    return Topic(str(entry["_id"] if product is None else product), masked, segments)


def length_segment(tokens: int) -> str:
    """Return the range of lengths that so many words are in.

    >>> length_segment(20), length_segment(500)
    ('1-20 words', '101 words and more')
    """
    for low, high in LENGTHS:
        if high is not None and tokens <= high:
            return f"{low}-{high} words"
    return f"{LENGTHS[-1][0]} words and more"


def title_segment(percent: int) -> str:
    """Return the range that so many of 100 words of a title are in.

    >>> title_segment(0), title_segment(24), title_segment(100)
    ('0 %', '1-24 %', '50-100 %')
    """
    low, high = next(each for each in reversed(TITLE_PERCENTS) if percent >= each[0])
    return f"{low}-{high} %" if high else "0 %"


def with_masked_queries(collection: Collection, topics: Mapping[str, Topic]) -> Collection:
    """Return the collection with every query masked.

    Raises:
        CommandError: the data set has no masked queries.
    """
    texts: list[str] = []
    for query_id in collection.query_ids:
        masked = topics[query_id].masked if query_id in topics else None
        if masked is None:
            raise CommandError(
                "--masked: this data set has no masked queries; training.dataset makes them"
            )
        texts.append(masked)
    return replace(collection, query_texts=tuple(texts))


def without_category(
    collection: Collection, topics: Mapping[str, Topic], category: str
) -> Collection:
    """Return the collection without the queries of a category.

    Raises:
        CommandError: none would be left.
    """
    kept = [
        (query_id, text)
        for query_id, text in zip(collection.query_ids, collection.query_texts, strict=True)
        if query_id not in topics or topics[query_id].segments.get("category") != category.strip()
    ]
    if not kept:
        raise CommandError(f"{collection.name}: all queries of dev are of category {category!r}")
    return replace(
        collection,
        query_ids=tuple(query_id for query_id, _ in kept),
        query_texts=tuple(text for _, text in kept),
        qrels={query_id: collection.qrels[query_id] for query_id, _ in kept},
    )


def _count(data: Mapping[str, Any], name: str, at: str) -> int | None:
    """Return a whole number of the metadata; None where it is not known."""
    value = data.get(name)
    if value is None or type(value) is int:
        return value
    raise CommandError(f"{at}: metadata.{name} is {value!r}; a whole number is needed")
