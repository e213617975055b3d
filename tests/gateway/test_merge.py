"""Merging is `sorted` over all hits: order-independent, duplicate-free, ties by item_id."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.merge import Hits, merge

SCORES = st.sampled_from([0.1, 0.25, 0.5, 0.5000001, 0.9])
CATALOGUE = st.dictionaries(st.text(min_size=1, max_size=4), SCORES, max_size=40)


def ranked(items: dict[str, float]) -> Hits:
    order = sorted(items, key=lambda item_id: (-items[item_id], item_id))
    return Hits(tuple(order), tuple(items[item_id] for item_id in order))


def cut_into(items: dict[str, float], num_shards: int) -> list[Hits]:
    names = sorted(items)
    return [ranked({n: items[n] for n in names[shard::num_shards]}) for shard in range(num_shards)]


@given(CATALOGUE, st.sampled_from([1, 2, 4, 7]), st.integers(1, 50))
def test_any_number_of_shards_gives_what_sorting_everything_gives(items, num_shards, top_k):
    merged = merge(cut_into(items, num_shards), top_k)

    assert merged == ranked(items).cut(0, top_k)


@given(CATALOGUE, st.randoms(), st.integers(1, 50))
def test_the_order_of_the_lists_does_not_matter(items, random, top_k):
    lists = cut_into(items, 5)
    shuffled = random.sample(lists, len(lists))

    assert merge(shuffled, top_k) == merge(lists, top_k)


def test_an_item_on_two_lists_counts_once_with_its_best_score():
    merged = merge([Hits(("a",), (0.4,)), Hits(("a", "b"), (0.9, 0.5))], top_k=10)

    assert merged == Hits(("a", "b"), (0.9, 0.5))


def test_equal_scores_are_ordered_by_utf8_bytes():
    names = ["é", "z", "a", "Z", "\U0001f457", "￿"]
    merged = merge([Hits((name,), (0.5,)) for name in names], top_k=10)

    assert list(merged.item_ids) == sorted(names, key=str.encode)
