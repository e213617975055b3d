"""Queries share calls to the encoder, within its limits, and no query pays for another one."""

import asyncio

from rpc.deadlines import Deadline
from rpc.errors import InvalidArgument
from tests.gateway.fakes import running


async def encoded(it, texts):
    """Encode texts at once; return what became of each."""
    calls = [it.cluster.encoder.encode(text, Deadline.after(30)) for text in texts]
    return await asyncio.gather(*calls, return_exceptions=True)


async def test_no_call_has_more_texts_than_the_encoder_takes(tmp_path):
    async with running(tmp_path, look=False) as it:
        it.encoder.batch_texts_max = 8
        await it.cluster.encoder.probe(30)
        answers = await encoded(it, [f"text {number}" for number in range(50)])

    assert not [answer for answer in answers if isinstance(answer, Exception)]
    assert max(len(texts) for texts in it.encoder.calls) == 8


async def test_no_call_has_more_texts_than_the_gateway_allows(tmp_path):
    async with running(tmp_path, look=False, encode_texts_max=4) as it:
        await it.cluster.encoder.probe(30)
        await encoded(it, [f"text {number}" for number in range(50)])

    assert max(len(texts) for texts in it.encoder.calls) == 4


async def test_only_the_caller_of_a_refused_text_is_refused(tmp_path):
    async with running(tmp_path, look=False) as it:
        it.encoder.text_bytes_max = 20
        refused, *others = await encoded(it, ["long " * 10, "red hat", "wool coat"])

    assert isinstance(refused, InvalidArgument)
    assert refused.field == "texts[0]"
    assert not [answer for answer in others if isinstance(answer, Exception)]
    assert sorted(map(len, it.encoder.calls)) == [1, 1, 1, 3]
