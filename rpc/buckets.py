"""Where an item lives: item_id -> bucket -> shard. Part of the file format: never change it."""

import xxhash

NUM_BUCKETS = 1024


def bucket_of(item_id: str) -> int:
    """Return the bucket of an item, 0..1023: xxh3_64 of its UTF-8 bytes, modulo 1024.

    >>> bucket_of("B07XYZ")
    504
    """
    return xxhash.xxh3_64_intdigest(item_id.encode()) % NUM_BUCKETS


def shard_of(bucket: int, num_shards: int) -> int:
    """Return the shard of a bucket, so that each shard holds one contiguous range of buckets.

    >>> [shard_of(bucket, 4) for bucket in (0, 255, 256, 1023)]
    [0, 0, 1, 3]
    """
    return bucket * num_shards // NUM_BUCKETS


def buckets_of_shard(shard: int, num_shards: int) -> range:
    """Return the buckets of a shard, the inverse of `shard_of`.

    >>> buckets_of_shard(1, 4)
    range(256, 512)
    """
    first = -(-shard * NUM_BUCKETS // num_shards)
    after = -(-(shard + 1) * NUM_BUCKETS // num_shards)
    return range(first, after)
