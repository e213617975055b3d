"""Pairs of a review and the product it praises: chosen in bounded memory, each text once."""

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from training.duplicates import REVIEW_OVERLAP, Groups, digest, key_of, near_equal
from training.filters import Filters, Identify, refusal
from training.reviews import Item, Review

NUM_PAIRS = 50_000
# Near-equal texts fall out only after the drawing, so somewhat more are drawn.
DRAWN_SHARE = 1.1
SHINGLE_WORDS = 3


@dataclass(frozen=True, slots=True)
class Choice:
    """Which reviews to use, how a text's language is told, how many pairs to draw."""

    filters: Filters
    identify: Identify
    num_pairs: int = NUM_PAIRS
    seed: int = 7

    def refusal(self, review: Review) -> str | None:
        """Return why a review is not used; None when it is."""
        return refusal(review, self.filters, self.identify)


@dataclass(frozen=True, slots=True)
class Pair:
    """A review as the query, and the titles that answer it.

    Attributes:
        query: the review's title and text.
        item_id: the item it was written about.
        title_keys: keys of all titles that the same review stands under; its item's is the first.
        num_reviews: usable reviews of items of its title in the whole input.
    """

    query: str
    item_id: str
    title_keys: tuple[str, ...]
    num_reviews: int


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A review that was drawn, with the keys of the titles it stands under."""

    review: Review
    title_keys: tuple[str, ...]

    def also_under(self, title_keys: Iterable[str]) -> "_Drawn":
        """Return it with more titles, each once."""
        return _Drawn(self.review, tuple(dict.fromkeys((*self.title_keys, *title_keys))))


class Draw:
    """Keeps the texts with the least numbers of a stream; equal texts meet in one.

    A text's number is a hash of the seed and its words. So the draw is uniform over texts, is the
    same in any order of the stream, and holds no more than it returns.
    """

    def __init__(self, size: int, seed: int, skipped: Counter[str]) -> None:
        self._size = size
        self._seed = seed
        self._skipped = skipped
        self._drawn: dict[int, _Drawn] = {}
        self._largest: list[int] = []

    def offer(self, review: Review, title_key: str) -> None:
        """Take a review, or count why it is not taken."""
        number = digest(key_of(review.text), self._seed)
        if (same := self._drawn.get(number)) is not None:
            self._skipped["duplicate_text"] += 1
            self._drawn[number] = same.also_under((title_key,))
            return
        heapq.heappush(self._largest, -number)
        self._drawn[number] = _Drawn(review, (title_key,))
        if len(self._drawn) > self._size:
            del self._drawn[-heapq.heappop(self._largest)]
            self._skipped["not_drawn"] += 1

    def in_order(self) -> list[_Drawn]:
        """Return what was drawn, least number first."""
        return [self._drawn[number] for number in sorted(self._drawn)]


def choose_pairs(
    reviews: Iterable[Review],
    items: Mapping[str, Item],
    choice: Choice,
    skipped: Counter[str],
) -> list[Pair]:
    """Return pairs drawn at random from all usable reviews.

    Args:
        reviews: a stream, read once.
        items: by id; reviews of others are skipped.
        choice: what is usable, and how many to draw.
        skipped: counts what was left out, by reason.
    """
    draw = Draw(round(choice.num_pairs * DRAWN_SHARE) + 1, choice.seed, skipped)
    num_reviews: Counter[int] = Counter()
    for review in reviews:
        item = items.get(review.item_id)
        reason = "unknown_item" if item is None else choice.refusal(review)
        if item is None or reason:
            skipped[reason or ""] += 1
            continue
        title_key = key_of(item.title)
        num_reviews[digest(title_key)] += 1
        draw.offer(review, title_key)
    kept = _once(draw.in_order(), skipped)
    skipped["not_drawn"] += max(0, len(kept) - choice.num_pairs)
    return [
        Pair(
            query=each.review.text,
            item_id=each.review.item_id,
            title_keys=each.title_keys,
            num_reviews=num_reviews[digest(each.title_keys[0])],
        )
        for each in kept[: choice.num_pairs]
    ]


def _once(drawn: list[_Drawn], skipped: Counter[str]) -> list[_Drawn]:
    """Return one of each group of near-equal reviews; it answers for the titles of all."""
    texts = [each.review.text for each in drawn]
    groups: Groups = near_equal(texts, SHINGLE_WORDS, REVIEW_OVERLAP, "comparing reviews")
    kept: dict[int, _Drawn] = {}
    for number, each in zip(groups.numbers(), drawn, strict=True):
        if number in kept:
            skipped["near_duplicate_text"] += 1
            kept[number] = kept[number].also_under(each.title_keys)
        else:
            kept[number] = each
    return list(kept.values())
