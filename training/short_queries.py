"""Short queries: what counts as one, and what one might type for a title.

Reviews stand in for queries, but shoppers type few words. What serves them is tuned on words of
titles, where no searches were recorded.
"""

from dataclasses import replace
from random import Random

from training.beir import Collection

SHORT_WORDS_MAX = 8
WORDS_OF_A_TITLE = (2, 4)


def is_short(query: str) -> bool:
    """Tell whether a query has so few words that it was typed to find something.

    >>> is_short("rain boots"), is_short("I wore these boots in the rain for a whole week")
    (True, False)
    """
    return len(query.split()) <= SHORT_WORDS_MAX


def few_words(title: str, draw_number: int = 0) -> str:
    """Return two to four words of a title in their order, as one might type them.

    Args:
        title: of an item.
        draw_number: another number, mostly other words.

    >>> few_words("Acme Waterproof Rain Boots for Women")
    'acme rain for women'
    >>> few_words("Acme Waterproof Rain Boots for Women", 1)
    'waterproof boots'
    """
    words = title.lower().split()
    draw = Random(f"{draw_number} {title}" if draw_number else title)  # noqa: S311 - repeatable
    places = draw.sample(range(len(words)), min(draw.randint(*WORDS_OF_A_TITLE), len(words)))
    return " ".join(words[place] for place in sorted(places))


def typed_for(collection: Collection) -> list[str]:
    """Return for each query a few words of the title of an item that answers it."""
    titles = dict(zip(collection.item_ids, collection.item_texts, strict=True))
    answers = (min(collection.qrels[query_id]) for query_id in collection.query_ids)
    return [few_words(titles[answer]) for answer in answers]


def with_typed(collection: Collection) -> Collection:
    """Return a collection that asks for each query's items once more, in a few words."""
    names = {query_id: f"{query_id} typed" for query_id in collection.query_ids}
    again = {names[query_id]: judged for query_id, judged in collection.qrels.items()}
    return replace(
        collection,
        query_ids=(*collection.query_ids, *names.values()),
        query_texts=(*collection.query_texts, *typed_for(collection)),
        qrels={**collection.qrels, **again},
    )
