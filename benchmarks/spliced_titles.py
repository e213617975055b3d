"""More items like those of a catalogue: titles that begin as one of its titles and end as another.

`python -m benchmarks.spliced_titles --items products.jsonl.gz --count 400000 --out more.jsonl.gz`

An index's cost depends on how close vectors lie, and a vocabulary of a few hundred words makes
neighbours of thousands. Of two titles of one category, the first words of one and the last of the
other make a title that was not there, of words that go together about as well as those of the rest.
"""

import gzip
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Annotated

import orjson
import typer

from rpc.terminal import CommandError, errors_as_sentences, progress_bar

DRAWS_MAX = 100
"""How often two titles are drawn for one that is not there yet."""


def main(
    items: Annotated[list[Path], typer.Option(help="JSON lines with title, main_category; .gz.")],
    out: Annotated[Path, typer.Option(help="File to write, gzipped JSON lines.")],
    count: Annotated[int, typer.Option(min=1, help="Number of items to make.")] = 400_000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same items.")] = 1,
) -> None:
    """Make items of spliced titles."""
    with errors_as_sentences():
        by_category = titles_by_category(items)
        with gzip.open(out, "wb") as file, progress_bar("splicing titles", count) as advance:
            for number, title in enumerate(spliced(by_category, count, seed)):
                item = {"item_id": f"spliced-{number:06d}", "title": title}
                file.write(orjson.dumps(item) + b"\n")
                advance(1)


def titles_by_category(paths: Iterable[Path]) -> list[list[str]]:
    """Return the titles of at least two words of each category, each once, in order."""
    categories: dict[str, dict[str, None]] = {}
    for path in paths:
        open_file = gzip.open if path.suffix == ".gz" else open
        with open_file(path, "rb") as file:
            for line in file:
                item = orjson.loads(line)
                if len((title := item.get("title") or "").split()) > 1:
                    categories.setdefault(str(item.get("main_category")), {})[title] = None
    return [list(titles) for titles in categories.values()]


def spliced(by_category: Sequence[Sequence[str]], count: int, seed: int) -> Iterator[str]:
    """Yield so many titles that are neither among those given nor twice among those made.

    Args:
        by_category: titles to take words of; of each as many are made as it has titles, in
            proportion.
        count: how many to make.
        seed: the same one gives the same titles.

    Raises:
        CommandError: there are too few titles to make so many of.
    """
    draw = Random(seed)
    known = {title for titles in by_category for title in titles}
    weights = [len(titles) for titles in by_category]
    for made in range(count):
        for _ in range(DRAWS_MAX):
            (titles,) = draw.choices(by_category, weights)
            title = splice(draw.choice(titles), draw.choice(titles))
            if title not in known:
                break
        else:
            raise CommandError(f"only {made} titles can be made of these; ask for fewer")
        known.add(title)
        yield title


def splice(first: str, second: str) -> str:
    """Return the first half of one title's words and the last half of another's.

    >>> splice("Steel Garden Hose Reel, Green", "Oak Wall Shelf")
    'Steel Garden Hose Wall Shelf'
    """
    beginning, end = first.split(), second.split()
    return " ".join([*beginning[: -(-len(beginning) // 2)], *end[len(end) // 2 :]])


if __name__ == "__main__":
    typer.run(main)
