"""ann_recall@10 over the wire: default search against exact search of the same queries."""

from collections.abc import Awaitable, Callable, Sequence

from protos.vitrine.v1 import search_pb2, types_pb2

Search = Callable[[search_pb2.SearchRequest], Awaitable[search_pb2.SearchResponse]]


async def ann_recall_at_10(search: Search, texts: Sequence[str]) -> float:
    """Return the mean share of the exact 10 best that default search finds.

    A hit counts when it scores at least what the 10th exact hit scores: items with equal vectors
    stand in for each other.
    """
    found = 0.0
    for text in texts:
        exact = await search(_request(text, exact=True))
        default = await search(_request(text, exact=False))
        bound = exact.results[-1].score
        wanted = len(exact.results)
        found += min(wanted, sum(hit.score >= bound for hit in default.results)) / wanted
    return round(found / len(texts), 4)


def _request(text: str, *, exact: bool) -> search_pb2.SearchRequest:
    return search_pb2.SearchRequest(
        text=text, fields=["none"], params=types_pb2.SearchParams(exact=exact)
    )
