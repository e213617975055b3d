"""What every shard of a search is asked, made once."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

from protos.vitrine.v1 import index_pb2


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
        return _serialized([self])


def request_of(questions: Sequence[Question]) -> bytes:
    """Return the request that asks questions of one group together."""
    return questions[0].request if len(questions) == 1 else _serialized(questions)


def _serialized(questions: Sequence[Question]) -> bytes:
    request = index_pb2.IndexServiceSearchRequest(
        generation=questions[0].generation,
        encoder_id=questions[0].encoder_id,
        queries=[question.query for question in questions],
    )
    return request.SerializeToString()
