"""The pairs to train on, by columns: queries, their items, and hard negatives."""

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import xxhash
from numpy.typing import NDArray

from rpc.terminal import CommandError
from training.beir import entries_of, text_of
from training.dataset import PAIRS_FILE
from training.short_queries import few_words

Rows = NDArray[np.int64]
# Items tried in place of a negative that cannot be used; a batch asks for few of all products.
_DRAWS_MAX = 100


@dataclass(frozen=True, slots=True)
class Examples:
    """Pairs of a query and an item.

    Attributes:
        queries: a text for each pair.
        groups: the product group of each pair.
        positives: the item of each pair, a row of `items`, int64 of shape (pairs,).
        items: the texts of items, each once.
        item_groups: the product group of each item.
        fingerprint: a hash over all of it.
    """

    queries: tuple[str, ...]
    groups: tuple[str, ...]
    positives: Rows
    items: tuple[str, ...]
    item_groups: tuple[str, ...]
    fingerprint: str

    def columns(self, batch: Sequence[int], negatives: Rows | None) -> list[list[str]]:
        """Return the texts of a batch: queries, their items, and a column for each negative.

        A negative is one for every query of the batch. So none is of a product that the batch
        asks for: there another item stands, as where no negative was mined (-1).
        """
        columns = [
            [self.queries[place] for place in batch],
            [self.items[self.positives[place]] for place in batch],
        ]
        asked_for = {self.groups[place] for place in batch}
        for number in range(0 if negatives is None else negatives.shape[1]):
            assert negatives is not None
            rows = (
                # Another draw for each column, or a pair's negatives would be one item.
                self._usable(
                    int(negatives[place, number]),
                    f"{place} {number}" if number else f"{place}",
                    asked_for,
                )
                for place in batch
            )
            columns.append([self.items[row] for row in rows])
        return columns

    def lists(self, batch: Sequence[int], negatives: Rows) -> list[list[str]]:
        """Return the item of each pair of a batch, and behind it the pair's own negatives."""
        return [
            [self.items[self.positives[place]]]
            + [
                self.items[self._usable(int(row), f"{place} {number}", (self.groups[place],))]
                for number, row in enumerate(negatives[place])
            ]
            for place in batch
        ]

    def _usable(self, row: int, key: str, asked_for: Container[str]) -> int:
        """Return a negative's row, or another drawn by this key when it cannot be used."""
        for draw in range(_DRAWS_MAX):
            if row >= 0 and self.item_groups[row] not in asked_for:
                return row
            drawn: int = xxhash.xxh3_64_intdigest(f"{key} {draw}".encode())
            row = drawn % len(self.items)
        # Nearly every product is asked for: whichever is not, from the last draw on.
        others: Iterable[int] = chain(range(row, len(self.items)), range(row))
        found: int = next(each for each in others if self.item_groups[each] not in asked_for)
        return found


def read_examples(folder: Path, pairs_max: int | None, except_category: str | None) -> Examples:
    """Return the training pairs of a data set.

    Raises:
        CommandError: there is no such data set or a line of it cannot be understood, it has less
            than two pairs, or none of the category to leave out.
    """
    path = folder / PAIRS_FILE
    if not path.is_file():
        raise CommandError(f"{path}: no training pairs; make them with python -m training.dataset")
    read = [_pair_of(entry, at) for at, entry in entries_of(path)]
    categories = {pair["category"] for pair in read}
    if except_category is not None and except_category not in categories:
        raise CommandError(
            f"data.except_category is {except_category!r}, and no pair has it; there are "
            f"{', '.join(sorted(filter(None, categories))) or 'none'}"
        )
    kept = [pair for pair in read if pair["category"] != except_category][:pairs_max]
    if len(kept) < 2:
        raise CommandError(f"{path}: {len(kept)} pairs are left to train on; 2 are the least")
    rows: dict[str, int] = {}
    item_groups: list[str] = []
    for pair in kept:
        if pair["positive"] not in rows:
            rows[pair["positive"]] = len(rows)
            item_groups.append(pair["group"])
    return Examples(
        queries=tuple(pair["query"] for pair in kept),
        groups=tuple(pair["group"] for pair in kept),
        positives=np.array([rows[pair["positive"]] for pair in kept], dtype=np.int64),
        items=tuple(rows),
        item_groups=tuple(item_groups),
        fingerprint=xxhash.xxh3_128_hexdigest(orjson.dumps(kept)),
    )


def _pair_of(entry: dict[str, Any], at: str) -> dict[str, Any]:
    """Return a line of the pairs that has what is read of it, texts all."""
    for field in ("query", "positive", "group"):
        text_of(entry, field, at)
    return entry | {"category": text_of(entry, "category", at, required=False)}


def with_short_queries(examples: Examples, per_item: int) -> Examples:
    """Return pairs to which so many made-up short queries for each item are added."""
    if not per_item:
        return examples
    rows = np.repeat(np.arange(len(examples.items)), per_item)
    typed = (few_words(title, number) for title in examples.items for number in range(per_item))
    return replace(
        examples,
        queries=(*examples.queries, *typed),
        groups=(*examples.groups, *(examples.item_groups[row] for row in rows)),
        positives=np.concatenate([examples.positives, rows]),
        fingerprint=f"{examples.fingerprint} {per_item} short",
    )
