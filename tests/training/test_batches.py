from hypothesis import given
from hypothesis import strategies as st

from training.batches import make_batches

GROUPS = st.lists(st.sampled_from("abcdefgh"), max_size=60)


def batched(groups, size, *, product_once, bucket=1, seed="s", lengths=None):
    lengths = lengths or [1] * len(groups)
    return make_batches(groups, lengths, size, product_once=product_once, bucket=bucket, seed=seed)


@given(groups=GROUPS, size=st.integers(2, 9), bucket=st.integers(1, 3))
def test_a_batch_holds_a_product_once_and_each_pair_is_in_one_batch(groups, size, bucket):
    batches = batched(groups, size, product_once=True, bucket=bucket)
    for batch in batches:
        products = [groups[place] for place in batch]
        assert len(set(products)) == len(products)
        assert 2 <= len(batch) <= size
    taken = sorted(place for batch in batches for place in batch)
    assert len(set(taken)) == len(taken)
    # What is left out had nothing to stand beside: pairs of one product.
    left = [groups[place] for place in range(len(groups)) if place not in taken]
    assert len(set(left)) <= 1


@given(groups=GROUPS, size=st.integers(2, 9))
def test_without_that_batches_are_full_but_the_last(groups, size):
    sizes = sorted(len(batch) for batch in batched(groups, size, product_once=False))
    assert all(each == size for each in sizes[1:])
    assert len(groups) - sum(sizes) <= 1


def test_the_same_seed_gives_the_same_batches_and_another_others():
    groups = [str(place // 2) for place in range(40)]
    first = batched(groups, 8, product_once=True, seed="7 0")
    assert batched(groups, 8, product_once=True, seed="7 0") == first
    assert batched(groups, 8, product_once=True, seed="7 1") != first


def test_buckets_put_texts_of_like_length_together():
    groups = [str(place) for place in range(64)]
    lengths = [place * 37 % 64 for place in range(64)]
    batches = batched(groups, 8, product_once=True, bucket=8, lengths=lengths)
    assert sorted(sorted(lengths[place] for place in batch) for batch in batches) == [
        list(range(start, start + 8)) for start in range(0, 64, 8)
    ]
