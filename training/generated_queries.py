"""A judged collection out of nothing: items of the sample catalogue, queries of their words."""

from random import Random

from training.beir import Collection
from training.sample_catalog import make_items, read_vocabulary, words_of

WORDS_A_QUERY = 2
_SEED = 23


def generated_collection(num_items: int, num_queries: int) -> Collection:
    """Return titles, and for some of them a query of a few of the title's words in any order.

    Titles share brands, things, colours and materials, so that a query has many near misses. The
    same numbers give the same collection.

    >>> found = generated_collection(40, 10)
    >>> len(found.item_texts), len(found.query_texts), found.qrels[found.query_ids[0]]
    (40, 10, {'VS000002': 1})
    """
    draw = Random(_SEED)  # noqa: S311 - sampling, not secrecy
    vocabulary = read_vocabulary()
    titles = {item.item_id: item.title for item in make_items(vocabulary, num_items, _SEED)}
    queries, qrels = {}, {}
    for number, item_id in enumerate(sorted(draw.sample(sorted(titles), num_queries))):
        words = sorted(words_of(titles[item_id]) - vocabulary.without_meaning)
        queries[f"q{number}"] = " ".join(draw.sample(words, min(WORDS_A_QUERY, len(words))))
        qrels[f"q{number}"] = {item_id: 1}
    return Collection(
        name="generated",
        item_ids=tuple(titles),
        item_texts=tuple(titles.values()),
        query_ids=tuple(queries),
        query_texts=tuple(queries.values()),
        qrels=qrels,
    )
