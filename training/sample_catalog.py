"""A made-up fashion shop: a catalogue to try the software on, and reviews to learn from.

    DIR/items.jsonl.gz     format "vitrine", as gateway.ingest reads it
    DIR/reviews.jsonl.gz   schema of Amazon Reviews 2023

Titles speak as shops do ("Nordhagen Women's Linen Wrap Dress, Sage Green, Midi"), reviews as
shoppers do ("breathes well in the heat, perfect for a ceremony barefoot on the sand"): a review
never names the brand and shares hardly a word with its item's title, so that finding the item
from the review takes more than matching words. The same seed gives the same bytes.
"""

import gzip
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Annotated, Any

import orjson
import typer

from rpc.terminal import errors_as_sentences, print_result, progress_bar

ITEMS_FILE = "items.jsonl.gz"
REVIEWS_FILE = "reviews.jsonl.gz"
# Numbers in item ids have six digits.
ITEMS_MAX = 999_999
REVIEWED_SHARE = 0.6
REVIEWS_PER_ITEM = (2, 4)
# How often a shopper uses the shop's own word for the thing.
NOUN_SHARE = 0.03
TITLE_DRAWS_MAX = 20
FIRST_DAY = datetime(2022, 1, 1, tzinfo=UTC)
DAYS = 3 * 365

TITLE_FORMS = (
    "{brand} {gender} {material} {style} {noun}, {color}, {extra}",
    "{brand} {style} {noun} for {people} - {material}, {extra} ({color})",
    "{gender} {style} {material} {noun} by {brand}, {extra}, {color}",
    "{brand} {gender} {style} {noun} in {color} {material}, {extra}",
)
Table = Mapping[str, Any]
_WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True)
class Vocabulary:
    """What items are made of and how people talk about it; see sample_vocabulary.toml."""

    brands: Sequence[str]
    stop_words: Sequence[str]
    genders: Mapping[str, Table]
    colors: Mapping[str, Table]
    materials: Mapping[str, Table]
    occasions: Mapping[str, Table]
    styles: Mapping[str, Sequence[str]]
    products: Sequence[Table]
    reviews: Mapping[str, Table]
    fits: Table
    mentions: Table
    descriptions: Table

    @cached_property
    def without_meaning(self) -> frozenset[str]:
        """The words that an item's title and its reviews may share."""
        return frozenset(self.stop_words)


@dataclass(frozen=True)
class SampleItem:
    """One product of the made-up shop."""

    item_id: str
    title: str
    brand: str
    product: Table
    gender: str
    style: str
    material: str
    color: str
    season: str
    occasions: tuple[str, ...]
    price: float
    rating: float
    num_ratings: int
    listed: datetime
    description: str

    @cached_property
    def title_words(self) -> frozenset[str]:
        """The words of the title."""
        return words_of(self.title)


def read_vocabulary() -> Vocabulary:
    """Return the vocabulary that is shipped beside this file."""
    text = files("training").joinpath("sample_vocabulary.toml").read_text(encoding="utf-8")
    return Vocabulary(**tomllib.loads(text))


def make_items(vocabulary: Vocabulary, num_items: int, seed: int) -> Iterator[SampleItem]:
    """Yield items of which titles are drawn anew while one like it is there."""
    draw = Random(f"items {seed}")  # noqa: S311 - repeatable on purpose
    titles: set[str] = set()
    for number in range(num_items):
        item = _draw_item(vocabulary, draw, number)
        for _ in range(TITLE_DRAWS_MAX):
            if item.title not in titles:
                break
            item = _draw_item(vocabulary, draw, number)
        titles.add(item.title)
        yield item


def make_reviews(
    vocabulary: Vocabulary, items: Iterable[SampleItem], seed: int
) -> Iterator[dict[str, Any]]:
    """Yield the reviews of a part of the items."""
    draw = Random(f"reviews {seed}")  # noqa: S311 - repeatable on purpose
    for item in items:
        if draw.random() < REVIEWED_SHARE:
            for _ in range(draw.randint(*REVIEWS_PER_ITEM)):
                yield _draw_review(vocabulary, draw, item)


def to_record(item: SampleItem) -> dict[str, Any]:
    """Return an item as gateway.ingest reads it (format "vitrine")."""
    return {
        "item_id": item.item_id,
        "title": item.title,
        "texts": {"description": item.description},
        "attributes": {
            "brand": item.brand,
            "category": item.product["category"],
            "color": item.color,
            "material": item.material,
            "gender": item.gender,
            "season": item.season,
            "occasions": list(item.occasions),
            "price": item.price,
            "rating": item.rating,
            "num_ratings": item.num_ratings,
            "listed": {"time": item.listed.isoformat().replace("+00:00", "Z")},
        },
        "metadata": {"image": f"https://images.example.com/{item.item_id}.jpg"},
    }


def words_of(text: str) -> frozenset[str]:
    """Return the words of a text in lower case, singular and plural as one.

    >>> sorted(words_of("Women's linen shorts"))
    ['linen', 'short', 'women']
    """
    return frozenset(map(_singular, _WORD.findall(text.lower().replace("'s", ""))))


def write_sample(folder: Path, num_items: int, seed: int) -> dict[str, Any]:
    """Write both files, each whole or not at all; return what was written."""
    vocabulary = read_vocabulary()
    folder.mkdir(parents=True, exist_ok=True)
    with progress_bar("making items", num_items) as advance:
        items = [_counted(item, advance) for item in make_items(vocabulary, num_items, seed)]
        _write(folder / ITEMS_FILE, map(to_record, items))
    with progress_bar("making reviews", num_items) as advance:
        reviewed = (_counted(item, advance) for item in items)
        num_reviews = _write(folder / REVIEWS_FILE, make_reviews(vocabulary, reviewed, seed))
    return {
        "items": num_items,
        "reviews": num_reviews,
        "items_file": str(folder / ITEMS_FILE),
        "reviews_file": str(folder / REVIEWS_FILE),
    }


def _draw_item(vocabulary: Vocabulary, draw: Random, number: int) -> SampleItem:
    product = draw.choice(vocabulary.products)
    weights = [vocabulary.genders[gender]["weight"] for gender in product["genders"]]
    words = {
        "brand": draw.choice(vocabulary.brands),
        "people": draw.choices(product["genders"], weights)[0],
        "style": draw.choice(product["styles"]),
        "material": draw.choice(product["materials"]),
        "color": draw.choice(list(vocabulary.colors)),
        "extra": draw.choice(product["extras"]),
        "noun": product["noun"],
    }
    words["gender"] = vocabulary.genders[words["people"]]["title"]
    occasions = product["occasions"]
    num_occasions = min(draw.choice((1, 2, 2)), len(occasions))
    drawn_occasions = tuple(draw.sample(occasions, num_occasions))
    listed = FIRST_DAY - timedelta(days=draw.randrange(DAYS))
    return SampleItem(
        item_id=f"VS{number + 1:06d}",
        title=draw.choice(TITLE_FORMS).format(**words),
        brand=words["brand"],
        product=product,
        gender=words["people"],
        style=words["style"],
        material=words["material"],
        color=words["color"],
        season=vocabulary.materials[words["material"]]["season"],
        occasions=drawn_occasions,
        price=_draw_price(draw, product["price"]),
        rating=round(min(5.0, max(1.5, draw.gauss(4.1, 0.5))), 1),
        num_ratings=int(draw.lognormvariate(3.2, 1.2)),
        listed=listed,
        description=_describe(vocabulary, draw, words, drawn_occasions),
    )


def _draw_price(draw: Random, usual: float) -> float:
    """Return a price around the usual one that ends as shop prices end."""
    return max(5, round(usual * draw.lognormvariate(0.0, 0.35))) - draw.choice((0.01, 0.05, 0.5))


def _describe(
    vocabulary: Vocabulary, draw: Random, words: Mapping[str, str], occasions: Sequence[str]
) -> str:
    """Return what the shop says about an item, in the shop's words."""
    texts = vocabulary.descriptions
    opening = draw.choice(texts["openings"]).format(**{**words, "noun": words["noun"].lower()})
    use = draw.choice(texts["uses"]).format(occasion=" and ".join(occasions).lower())
    return " ".join((opening, use, draw.choice(texts["cares"])))


def _draw_review(vocabulary: Vocabulary, draw: Random, item: SampleItem) -> dict[str, Any]:
    rating = min(5, max(1, round(draw.gauss(item.rating, 0.8))))
    mood = vocabulary.reviews[str(rating)]
    written = item.listed + timedelta(seconds=draw.randrange(86_400, 86_400 * DAYS))
    return {
        "rating": float(rating),
        "title": draw.choice(_unshared(vocabulary, mood["titles"], item) or [""]),
        "text": _draw_text(vocabulary, draw, item, mood),
        "images": [],
        "asin": item.item_id,
        "parent_asin": item.item_id,
        "user_id": f"U{draw.getrandbits(64):016X}",
        "timestamp": int(written.timestamp() * 1000),
        "helpful_vote": int(draw.expovariate(0.7)),
        "verified_purchase": draw.random() < 0.92,
    }


def _draw_text(vocabulary: Vocabulary, draw: Random, item: SampleItem, mood: Table) -> str:
    """Return a few sentences that hint at what the item is, its mood among them."""
    thing = _mentions(vocabulary, draw, item)
    looks = [
        vocabulary.styles[item.style],
        vocabulary.materials[item.material]["says"],
        vocabulary.colors[item.color]["says"],
    ]
    wear = [
        vocabulary.occasions[draw.choice(item.occasions)]["says"],
        vocabulary.genders[item.gender]["says"],
    ]
    if item.product.get("sized", True):
        wear.append(vocabulary.fits["says"])
    # How it looks and feels is nearly always said, the rest at times.
    said = draw.sample(looks, draw.choice((2, 2, 3))) + draw.sample(wear, draw.choice((1, 1, 2)))
    hints = [thing, *said, mood["says"]]
    draw.shuffle(hints)
    left = [_unshared(vocabulary, hint, item) for hint in hints]
    return _join(draw, [draw.choice(phrases) for phrases in left if phrases])


def _mentions(vocabulary: Vocabulary, draw: Random, item: SampleItem) -> list[str]:
    """Return ways to mention the thing by a shopper's name for it."""
    number = "many" if item.product.get("plural", False) else "one"
    mention = draw.choice(vocabulary.mentions[number])
    if draw.random() < NOUN_SHARE:
        return [mention.format(thing=item.product["noun"].lower())]
    return [mention.format(thing=name) for name in item.product["nicknames"]]


def _unshared(vocabulary: Vocabulary, phrases: Sequence[str], item: SampleItem) -> list[str]:
    """Return the phrases that share no word with the item's title but those without meaning."""
    revealing = item.title_words - vocabulary.without_meaning
    return [phrase for phrase in phrases if not words_of(phrase) & revealing]


def _join(draw: Random, phrases: Sequence[str]) -> str:
    """Return phrases as sentences, some of them with two phrases."""
    sentences: list[str] = []
    for phrase in phrases:
        if sentences and draw.random() < 0.3 and " and " not in sentences[-1]:
            sentences[-1] += f" and {phrase}"
        else:
            sentences.append(phrase)
    ending = draw.choice((".", ".", ".", "!"))
    return " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in sentences)[:-1] + ending


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _counted(item: SampleItem, advance: Any) -> SampleItem:
    advance(1)
    return item


def _write(path: Path, records: Iterable[Mapping[str, Any]]) -> int:
    """Write records as gzipped JSON lines whose bytes depend on the records alone."""
    num_records = 0
    aside = path.with_name(f".{path.name}.writing")
    with (
        aside.open("wb") as raw,
        gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0, compresslevel=6) as file,
    ):
        for record in records:
            file.write(orjson.dumps(record) + b"\n")
            num_records += 1
    aside.replace(path)
    return num_records


def main(
    out: Annotated[Path, typer.Option(help="Folder to write both files to.")],
    items: Annotated[int, typer.Option(min=1, max=ITEMS_MAX, help="Number of items.")] = 12_000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 7,
) -> None:
    """Make a fashion catalogue and its reviews."""
    with errors_as_sentences():
        print_result(write_sample(out, items, seed))


if __name__ == "__main__":
    typer.run(main)
