"""Where items live: fixed by the file format, so fixed values are compared."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpc.buckets import NUM_BUCKETS, bucket_of, buckets_of_shard, shard_of


@pytest.mark.parametrize(("item_id", "bucket"), [("B07XYZ", 504), ("", 194), ("größe", 812)])
def test_the_bucket_of_an_item_never_changes(item_id, bucket):
    assert bucket_of(item_id) == bucket


@pytest.mark.parametrize("num_shards", [1, 2, 3, 4, 7, 100, 1023, 1024])
def test_shards_cut_the_buckets_into_contiguous_ranges(num_shards):
    ranges = [buckets_of_shard(shard, num_shards) for shard in range(num_shards)]
    assert [bucket for each in ranges for bucket in each] == list(range(NUM_BUCKETS))
    sizes = {len(each) for each in ranges}
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(0, NUM_BUCKETS - 1), st.integers(1, NUM_BUCKETS))
def test_the_shard_of_a_bucket_and_the_buckets_of_a_shard_agree(bucket, num_shards):
    assert bucket in buckets_of_shard(shard_of(bucket, num_shards), num_shards)


def test_items_spread_evenly():
    counts = Counter(shard_of(bucket_of(f"item-{number}"), 4) for number in range(10_000))

    assert min(counts.values()) > 2_350
    assert max(counts.values()) < 2_650
