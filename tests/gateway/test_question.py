"""Questions of one group become one request, whoever it is asked with."""

from gateway.question import Question, request_of
from protos.vitrine.v1 import index_pb2, types_pb2


def question(number):
    brand = types_pb2.FilterValue(keyword="acme")
    equals = types_pb2.EqualsFilter(attribute="brand", value=brand)
    query = index_pb2.ShardQuery(
        embedding=bytes([number] * 8), fetch_k=number, filter=types_pb2.Filter(equals=equals)
    )
    return Question(7, "encoder-a", query)


def test_a_shared_request_has_the_queries_of_all_in_order():
    questions = [question(number) for number in (1, 2, 3)]

    request = index_pb2.IndexServiceSearchRequest.FromString(request_of(questions))

    assert request == index_pb2.IndexServiceSearchRequest(
        generation=7, encoder_id="encoder-a", queries=[each.query for each in questions]
    )


def test_a_shared_request_has_no_more_bytes_than_its_questions_alone():
    questions = [question(number) for number in range(10)]

    assert len(request_of(questions)) <= sum(len(each.request) for each in questions)


def test_a_question_takes_as_many_bytes_as_its_answer_may_have():
    query = index_pb2.ShardQuery(embedding=bytes(8), fetch_k=1000)
    item_ids = [f"{number:0256}" for number in range(1000)]
    hits = index_pb2.HitList(item_ids=item_ids, scores=[0.5] * 1000)
    response = index_pb2.IndexServiceSearchResponse(hits=[index_pb2.ShardHits(dense=hits)])
    few = Question(7, "encoder-a", index_pb2.ShardQuery(embedding=bytes(900), fetch_k=2))

    assert response.ByteSize() - 32 <= Question(7, "encoder-a", query).num_bytes
    assert few.num_bytes == len(few.request)
