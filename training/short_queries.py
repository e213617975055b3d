"""Short queries: what counts as one, and what one might type for a title.

Reviews stand in for queries, but shoppers type few words. What serves them is tuned on words of
titles, where no searches were recorded.
"""

from random import Random

SHORT_WORDS_MAX = 8
WORDS_OF_A_TITLE = (2, 4)


def is_short(query: str) -> bool:
    """Tell whether a query has so few words that it was typed to find something.

    >>> is_short("rain boots"), is_short("I wore these boots in the rain for a whole week")
    (True, False)
    """
    return len(query.split()) <= SHORT_WORDS_MAX


def few_words(title: str) -> str:
    """Return two to four words of a title in their order, as one might type them.

    >>> few_words("Acme Waterproof Rain Boots for Women")
    'acme rain for women'
    """
    words = title.lower().split()
    draw = Random(title)  # noqa: S311 - repeatable on purpose
    places = draw.sample(range(len(words)), min(draw.randint(*WORDS_OF_A_TITLE), len(words)))
    return " ".join(words[place] for place in sorted(places))
