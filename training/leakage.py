"""How much of a product's name its reviews give away, and reviews without it.

A review that names the product makes search easy: a query then shares rare words with the title.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import Stemmer

# Words that stand in titles and reviews alike and name nothing.
STOP_WORDS = frozenset((
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "from", "has", "have", "i",
    "if", "in", "is", "it", "its", "my", "no", "not", "of", "off", "on", "one", "or", "out",
    "so", "that", "the", "their", "them", "they", "this", "to", "too", "up", "very", "was", "we",
    "with", "you", "your",
))  # fmt: skip
_STEMMER = Stemmer.Stemmer("english")
_WORD = re.compile(r"\w+(?:['\u2019]\w+)*")


@dataclass(frozen=True, slots=True)
class Leak:
    """What of one product stands in one review.

    Attributes:
        title_share: share of the title's words that the review has, 0..1.
        whole_title: all of the title's words are there.
        brand: the brand is known and all of its words are there.
    """

    title_share: float
    whole_title: bool
    brand: bool


def leak_of(review: str, title: str, brand: str) -> Leak:
    """Return what a review gives away of a product.

    >>> leak_of("My Acme boots leak", "Acme Rain Boot", "Acme")
    Leak(title_share=0.6666666666666666, whole_title=False, brand=True)
    """
    said, titled, branded = words_of(review), words_of(title), words_of(brand)
    share = len(said & titled) / len(titled) if titled else 0.0
    return Leak(share, share == 1.0, bool(branded) and branded <= said)


def mask(review: str, title: str, brand: str) -> str:
    """Return a review without the words of a product's title and brand.

    >>> mask("My Acme boots leak in rain.", "Acme Rain Boot", "")
    'My leak in .'
    """
    hidden = words_of(title) | words_of(brand)
    kept = _WORD.sub(lambda word: word[0] if words_of(word[0]).isdisjoint(hidden) else "", review)
    return " ".join(kept.split())


def words_of(text: str) -> frozenset[str]:
    """Return the stems of a text's words that mean something, those that BM25 compares.

    >>> sorted(words_of("This watch's batteries")), sorted(words_of("Battery for Watches"))
    (['batteri', 'watch'], ['batteri', 'watch'])
    """
    plain = (word.casefold().replace("\u2019", "'") for word in _WORD.findall(text))
    return frozenset(_STEMMER.stemWords([word for word in plain if word not in STOP_WORDS]))


def summary(leaks: Sequence[Leak]) -> Mapping[str, float]:
    """Return shares over many reviews, 0..1; zeros without any."""
    if not leaks:
        return {"title_words": 0.0, "half_of_title": 0.0, "whole_title": 0.0, "brand": 0.0}
    shares = np.array([leak.title_share for leak in leaks])
    return {
        "title_words": round(float(shares.mean()), 4),
        "half_of_title": round(float((shares >= 0.5).mean()), 4),
        "whole_title": round(float(np.mean([leak.whole_title for leak in leaks])), 4),
        "brand": round(float(np.mean([leak.brand for leak in leaks])), 4),
    }
