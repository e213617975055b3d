"""More like these: known items become a query embedding.

Source: the relevance-feedback formula of Rocchio (1971) without an original query and with
beta = gamma = 1: the mean of the positive embeddings less the mean of the negative ones, scaled to
unit length.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from gateway.cluster import Cluster
from gateway.encoder_client import Embedding
from gateway.query import LikeItems
from gateway.view import GenerationView
from protos.vitrine.v1 import index_pb2
from rpc.buckets import bucket_of, shard_of
from rpc.errors import DeadlineExceeded, NotFound
from rpc.vectors import Vectors, unit, unpack


async def embed_like(
    like: LikeItems, view: GenerationView, cluster: Cluster, timeout_s: float
) -> Embedding:
    """Return the embedding between liked items and away from disliked ones.

    Raises:
        NotFound: an item is not in the generation.
        Unavailable: the shard that holds an item is down.
        DeadlineExceeded: a shard did not answer in time.
        InvalidArgument: positive and negative items cancel each other out.
    """
    item_ids = (*like.positive, *like.negative)
    vectors = await _fetch(item_ids, view, cluster, timeout_s)
    unknown = [item_id for item_id in item_ids if item_id not in vectors]
    if unknown:
        raise NotFound("item", unknown)
    direction = combine(
        [vectors[item_id] for item_id in like.positive],
        [vectors[item_id] for item_id in like.negative],
    )
    return Embedding(unit(direction, "items"), view.encoder_id)


def combine(positive: Sequence[Vectors], negative: Sequence[Vectors]) -> Vectors:
    """Return the mean of the positive vectors less the mean of the negative ones, (dim,) float32.

    >>> combine([np.array([1, 0]), np.array([0, 1])], [np.array([0, 1])]).tolist()
    [0.5, -0.5]
    """
    direction = np.asarray(positive, np.float64).mean(axis=0)
    if negative:
        direction -= np.asarray(negative, np.float64).mean(axis=0)
    combined: Vectors = direction.astype(np.float32)
    return combined


async def _fetch(
    item_ids: Sequence[str], view: GenerationView, cluster: Cluster, timeout_s: float
) -> Mapping[str, Vectors]:
    """Return the stored embedding of each item, asked of the one shard that can hold it."""
    by_shard: dict[int, list[str]] = defaultdict(list)
    for item_id in dict.fromkeys(item_ids):
        by_shard[shard_of(bucket_of(item_id), view.num_shards)].append(item_id)
    try:
        async with asyncio.timeout(timeout_s):
            answers: list[index_pb2.GetEmbeddingsResponse] = await asyncio.gather(
                *(
                    cluster.shards[shard].get_embeddings(view.generation, ids, timeout_s)
                    for shard, ids in by_shard.items()
                )
            )
    except TimeoutError as exc:
        raise DeadlineExceeded("embed") from exc
    return {
        item_id: row
        for answer in answers
        if answer.item_ids
        for item_id, row in zip(answer.item_ids, unpack(answer.embeddings, answer.dim), strict=True)
    }
