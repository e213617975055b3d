"""What every shard of a search is asked, made once."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

from gateway.catalog.item import ITEM_ID_BYTES_MAX
from protos.vitrine.v1 import index_pb2

_HIT_BYTES_MAX = ITEM_ID_BYTES_MAX + 8
"""An item's id with its length, and a score."""


@dataclass(frozen=True, eq=False)
class Question:
    """A query in the vectors of one encoder, for one generation."""

    generation: int
    encoder_id: str
    query: index_pb2.ShardQuery

    @cached_property
    def group(self) -> Hashable:
        """Questions of one group may share a call: none waits for another's filter or scan."""
        filter_ = self.query.filter.SerializeToString(deterministic=True)
        return self.generation, self.encoder_id, self.query.params.exact, filter_

    @cached_property
    def request(self) -> bytes:
        """The request that asks this alone, the same for every shard."""
        request = index_pb2.IndexServiceSearchRequest(
            generation=self.generation, encoder_id=self.encoder_id, queries=[self.query]
        )
        return request.SerializeToString()

    @cached_property
    def num_bytes(self) -> int:
        """What this adds at most to a shared call: to its request, or to its answer."""
        return max(len(self.request), self.query.fetch_k * _HIT_BYTES_MAX)


def request_of(questions: Sequence[Question]) -> bytes:
    """Return the request that asks questions of one group together.

    Requests of one group differ in their queries alone, and messages laid end to end are one
    message with the repeated fields of all.

    Source: Protocol Buffers, Encoding, "Last One Wins".
    """
    return b"".join(question.request for question in questions)
