"""Make a data set of reviews as queries for the products they praise.

`python -m training.dataset --reviews FILE... --items FILE... --out DIR` reads files as Amazon
Reviews 2023 publishes them and writes a BEIR folder (see `training.beir`):

    DIR/corpus.jsonl.gz          every item: title, further text, brand and category
    DIR/queries.jsonl.gz         every chosen review, also without the words of its title
    DIR/qrels/{train,dev,test}.tsv   1 for each item of a title that the review praises
    DIR/pairs.jsonl.gz           what to train on: query, positive title, product group
    DIR/dataset.json             what was read, skipped and chosen; the leakage report
"""

import gzip
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from rpc.terminal import CommandError, errors_as_sentences, print_result
from training.duplicates import key_of
from training.filters import Filters, count_tokens, language_identifier
from training.json_files import read_object, write_object
from training.leakage import leak_of, mask, summary
from training.memory import out_of_memory_as_sentence
from training.pairs import NUM_PAIRS, Choice, Pair, choose_pairs
from training.reviews import Item, Skipped, read_items, read_reviews
from training.splits import SHARES, split_pairs, title_groups

FORMAT_VERSION = 1
DATASET_FILE = "dataset.json"
PAIRS_FILE = "pairs.jsonl.gz"
ITEM_FIELDS = ("title", "brand", "category", "description")


@dataclass(frozen=True, slots=True)
class DatasetOptions:
    """What to read and how to choose."""

    reviews: Sequence[Path]
    items: Sequence[Path]
    out: Path
    filters: Filters = field(default_factory=Filters)
    num_pairs: int = NUM_PAIRS
    item_fields: Sequence[str] = ("title",)
    seed: int = 7


@dataclass(frozen=True, slots=True)
class Chosen:
    """The pairs, the split of each, and the group of each title key."""

    pairs: Sequence[Pair]
    splits: Sequence[str]
    groups: Mapping[str, str]


def make_dataset(options: DatasetOptions) -> dict[str, Any]:
    """Write a data set and return its dataset.json.

    Raises:
        CommandError: a file cannot be read, no pair is left, a split would be empty, or memory
            ran out.
    """
    require_fields(options.item_fields)
    remedy = f"lower --pairs (now {options.num_pairs}), or give item files of fewer items"
    with out_of_memory_as_sentence(remedy):
        skipped = Skipped()
        items = read_items(options.items, skipped)
        choice = Choice(options.filters, language_identifier(), options.num_pairs, options.seed)
        reviews = read_reviews(options.reviews, skipped)
        pairs = choose_pairs(reviews, items, choice, skipped.reviews)
        if not pairs:
            raise CommandError(f"no review can be used: {dict(skipped.reviews)}")
        groups = title_groups(pairs)
        chosen = Chosen(pairs, split_pairs(pairs, groups, SHARES, options.seed), groups)
        report = describe(options, items, chosen, skipped)
        write_dataset(options, items, chosen, report)
        return report


def describe(
    options: DatasetOptions, items: Mapping[str, Item], chosen: Chosen, skipped: Skipped
) -> dict[str, Any]:
    """Return what was made of the files, in numbers."""
    by_split: dict[str, list[Pair]] = defaultdict(list)
    for pair, split in zip(chosen.pairs, chosen.splits, strict=True):
        by_split[split].append(pair)
    return {
        "format_version": FORMAT_VERSION,
        "relevance": "same_title",
        "items": len(items),
        "item_fields": list(options.item_fields),
        "pairs": len(chosen.pairs),
        "products": len(set(chosen.groups.values())),
        "splits": {name: _describe_split(by_split[name], items) for name in SHARES},
        "skipped_reviews": dict(sorted(skipped.reviews.items())),
        "skipped_items": dict(sorted(skipped.items.items())),
        "filters": {
            "rating_min": options.filters.rating_min,
            "tokens_min": options.filters.tokens_min,
            "language": options.filters.language,
        },
        "seed": options.seed,
    }


def write_dataset(
    options: DatasetOptions, items: Mapping[str, Item], chosen: Chosen, report: Mapping[str, Any]
) -> None:
    """Write all files, each whole or not at all; dataset.json last."""
    out = options.out
    (out / "qrels").mkdir(parents=True, exist_ok=True)
    (out / DATASET_FILE).unlink(missing_ok=True)
    ids_by_key: dict[str, list[str]] = defaultdict(list)
    for item in items.values():
        ids_by_key[key_of(item.title)].append(item.item_id)
    _write_lines(out / "corpus.jsonl.gz", (corpus_entry(i, options) for i in items.values()))
    named = [(f"r{place}", pair) for place, pair in enumerate(chosen.pairs)]
    _write_lines(out / "queries.jsonl.gz", (query_entry(n, p, items) for n, p in named))
    _write_lines(out / PAIRS_FILE, _training_pairs(named, items, chosen, options))
    for split in SHARES:
        rows = ["query-id\tcorpus-id\tscore"]
        for (name, pair), its_split in zip(named, chosen.splits, strict=True):
            if its_split == split:
                ids = (item_id for key in pair.title_keys for item_id in ids_by_key[key])
                rows += [f"{name}\t{item_id}\t1" for item_id in ids]
        (out / "qrels" / f"{split}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    write_object(out / DATASET_FILE, report)


def corpus_entry(item: Item, options: DatasetOptions) -> dict[str, Any]:
    """Return an item's line of corpus.jsonl."""
    title, text = item_texts(item, options.item_fields)
    metadata = {"brand": item.brand, "category": item.category}
    return {"_id": item.item_id, "title": title, "text": text, "metadata": metadata}


def query_entry(name: str, pair: Pair, items: Mapping[str, Item]) -> dict[str, Any]:
    """Return a review's line of queries.jsonl; its metadata tells its segments."""
    item = items[pair.item_id]
    metadata = {
        "masked": mask(pair.query, item.title, item.brand),
        "product": pair.title_keys[0],
        "category": item.category,
        "tokens": count_tokens(pair.query),
        "num_reviews": pair.num_reviews,
        "title_percent": ceil(100 * leak_of(pair.query, item.title, item.brand).title_share),
    }
    return {"_id": name, "text": pair.query, "metadata": metadata}


def is_of_reviews(folder: Path) -> bool:
    """Tell whether items of the title that a review was written about count as one.

    Raises:
        CommandError: dataset.json is there and cannot be read.
    """
    described = read_object(folder / DATASET_FILE) or {}
    return described.get("relevance") == "same_title"


def item_texts(item: Item, fields: Sequence[str]) -> tuple[str, str]:
    """Return an item's title, and what of its other fields is embedded with it.

    >>> item_texts(Item("B1", "Boot", "Acme", "Shoes", ""), ("title", "brand", "description"))
    ('Boot', 'Acme')
    """
    others = (getattr(item, name) for name in fields if name != "title")
    return item.title, ". ".join(filter(None, others))


def _training_pairs(
    named: Sequence[tuple[str, Pair]],
    items: Mapping[str, Item],
    chosen: Chosen,
    options: DatasetOptions,
) -> Iterable[dict[str, Any]]:
    for (name, pair), split in zip(named, chosen.splits, strict=True):
        if split == "train":
            item = items[pair.item_id]
            yield {
                "_id": name,
                "query": pair.query,
                "positive": " ".join(filter(None, item_texts(item, options.item_fields))),
                "group": chosen.groups[pair.title_keys[0]],
                "category": item.category,
            }


def _describe_split(pairs: Sequence[Pair], items: Mapping[str, Item]) -> dict[str, Any]:
    leaks = [
        leak_of(pair.query, items[pair.item_id].title, items[pair.item_id].brand) for pair in pairs
    ]
    titles = len({pair.title_keys[0] for pair in pairs})
    return {"pairs": len(pairs), "titles": titles, "leakage": summary(leaks)}


def fields_of(written: str) -> tuple[str, ...]:
    """Return the fields of an item's text as they are given to a command.

    >>> fields_of("title, brand")
    ('title', 'brand')
    """
    return tuple(name.strip() for name in written.split(","))


def template_of(fields: Sequence[str]) -> str:
    """Return the item template of a bundle that makes the texts that `item_texts` makes.

    Where a field is empty, the full stop before the next one stays.

    >>> template_of(("title",)), template_of(("title", "brand", "description"))
    ('{title}', '{title} {brand}. {description}')
    """
    others = ". ".join(f"{{{name}}}" for name in fields if name != "title")
    return f"{{title}} {others}".rstrip()


def require_fields(fields: Sequence[str]) -> None:
    """Refuse fields that items do not have, and texts without a title.

    Raises:
        CommandError: they are such.
    """
    for name in fields:
        if name not in ITEM_FIELDS:
            raise CommandError(f"item field is {name!r}; allowed {', '.join(ITEM_FIELDS)}")
    if "title" not in fields:
        raise CommandError(f"item fields are {','.join(fields)!r}; title must be among them")


def _write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write gzipped JSON lines, whole or not at all; their bytes depend on the records alone."""
    aside = path.with_name(f".{path.name}.writing")
    with (
        aside.open("wb") as raw,
        gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0, compresslevel=6) as file,
    ):
        for record in records:
            file.write(orjson.dumps(dict(record)) + b"\n")
    aside.replace(path)


def main(
    reviews: Annotated[list[Path], typer.Option(help="Review files, .jsonl or .jsonl.gz.")],
    items: Annotated[list[Path], typer.Option(help="Item files, .jsonl or .jsonl.gz.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    pairs: Annotated[int, typer.Option(min=1, help="The most pairs to choose.")] = NUM_PAIRS,
    rating_min: Annotated[float, typer.Option(min=1, max=5, help="Least rating.")] = 4.0,
    tokens_min: Annotated[int, typer.Option(min=1, help="Least number of words.")] = 5,
    language: Annotated[str, typer.Option(help='ISO 639 code; "" takes any.')] = "en",
    item_fields: Annotated[
        str, typer.Option(help="What an item's text is made of, as title,brand,description.")
    ] = "title",
    seed: Annotated[int, typer.Option(min=0, help="The same seed chooses the same.")] = 7,
) -> None:
    """Choose reviews as queries, split them by product, report what they give away."""
    with errors_as_sentences():
        filters = Filters(rating_min, tokens_min, language)
        print_result(
            make_dataset(
                DatasetOptions(reviews, items, out, filters, pairs, fields_of(item_fields), seed)
            )
        )


if __name__ == "__main__":
    typer.run(main)
