import asyncio
import time

import grpc
import numpy as np
import pytest

from encoder_service.bundle import load_bundle
from encoder_service.encoder import Encoder
from encoder_service.lanes import Bounds, Lane
from encoder_service.metrics import EncoderMetrics
from encoder_service.pool import WorkerPool
from encoder_service.reranker import Reranker, load_reranker
from encoder_service.service import EncoderService, Models
from encoder_service.settings import EncoderSettings
from protos.vitrine.v1 import encoder_pb2, encoder_pb2_grpc, types_pb2
from rpc.client import open_channel
from rpc.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
    from_rpc_error,
)
from rpc.interceptors import CallInterceptor
from rpc.telemetry import RpcMetrics
from rpc.vectors import unpack

QUERY, ITEM = types_pb2.TEXT_KIND_QUERY, types_pb2.TEXT_KIND_ITEM


class Served:
    """A real server over TCP with the real encoder."""

    def __init__(
        self, encoder: Encoder, settings: EncoderSettings, reranker: Reranker | None = None
    ) -> None:
        self.reranker = reranker
        self.rpc_metrics = RpcMetrics("encoder", "test")
        self.metrics = EncoderMetrics(self.rpc_metrics)
        self.encoder = encoder
        self.settings = settings
        self.service = EncoderService(settings)

    async def __aenter__(self):
        self.server = grpc.aio.server(interceptors=(CallInterceptor(self.rpc_metrics, 64),))
        encoder_pb2_grpc.add_EncoderServiceServicer_to_server(self.service, self.server)
        port = self.server.add_insecure_port("127.0.0.1:0")
        await self.server.start()
        self.channel = open_channel(f"127.0.0.1:{port}", 16 * 1024 * 1024)
        self.stub = encoder_pb2_grpc.EncoderServiceStub(self.channel)
        models = {Lane.QUERY: self.encoder, Lane.ITEM: self.encoder}
        if self.reranker is not None:
            models[Lane.RERANK] = self.reranker
        self.pool = WorkerPool(
            models,
            workers=1,
            bounds=Bounds(self.settings.queue_texts_max, self.settings.queue_tokens_max),
            observer=self.metrics,
        )
        return self

    async def __aexit__(self, *_):
        await self.channel.close()
        await self.server.stop(grace=None)
        await asyncio.to_thread(self.pool.close)

    def open(self):
        self.service.open(Models(self.encoder, self.reranker, self.pool, reference_cosine=0.99))

    async def encode(self, texts, kind=QUERY, timeout_s=30.0, **fields):
        request = encoder_pb2.EncodeRequest(texts=texts, kind=kind, **fields)
        try:
            return await self.stub.Encode(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as exc:
            raise from_rpc_error(exc) from exc

    async def rerank(self, query, texts, timeout_s=30.0, **fields):
        request = encoder_pb2.RerankRequest(query=query, texts=texts, **fields)
        try:
            return await self.stub.Rerank(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as exc:
            raise from_rpc_error(exc) from exc

    def metric(self, name, lane="query"):
        return self.rpc_metrics.registry.get_sample_value(name, {"lane": lane})


@pytest.fixture
async def served(encoder, minilm_bundle):
    settings = EncoderSettings(bundle=minilm_bundle, batch_texts_max=16, queue_texts_max=16)
    async with Served(encoder, settings) as served:
        served.open()
        yield served


async def test_encode_gives_unit_vectors_in_order(served, encoder):
    texts = ["red dress", "Größe 42", "赤いドレス", "a\0b"]
    answer = await served.encode(texts, encoder_id=encoder.bundle.encoder_id)
    vectors = unpack(answer.embeddings, answer.dim)
    np.testing.assert_array_equal(vectors, encoder.encode(texts))
    assert answer.encoder_id == encoder.bundle.encoder_id
    assert answer.tokens == sum(tokens.ids.size for tokens in encoder.tokenize(texts))
    assert answer.compute_us > 0
    assert served.metric("vitrine_encoder_texts_total") == 4


async def test_describe_says_what_the_bundle_is(served, encoder):
    answer = await served.stub.DescribeEncoder(encoder_pb2.DescribeEncoderRequest())
    assert answer.encoder_id == encoder.bundle.encoder_id
    assert (answer.dim, answer.max_tokens, answer.batch_texts_max) == (384, 256, 16)
    assert (answer.item_template, answer.quantization) == ("{title}", "int8")
    assert answer.reference_cosine == 0.99
    assert not answer.can_rerank


@pytest.mark.parametrize(
    ("texts", "field"),
    [
        ([], "texts is '0 texts'; allowed 1..16 texts"),
        (["a"] * 17, "texts is '17 texts'; allowed 1..16 texts"),
        (["boots", ""], r"texts\[1\] is ''; allowed a text that is not blank"),
        ([" \n\t"], r"texts\[0\]"),
        (["é" * 50_001], r"texts\[0\] is '100002 bytes long'; allowed at most 100000 bytes"),
        (["a", "é" * 100_000], r"texts\[1\] is '200000 bytes long'; allowed at most 100000 bytes"),
    ],
)
async def test_texts_out_of_bounds_are_refused_by_field(served, texts, field):
    with pytest.raises(InvalidArgument, match=field):
        await served.encode(texts)


async def test_kind_is_required(served):
    with pytest.raises(InvalidArgument, match="kind is 0; allowed TEXT_KIND_QUERY"):
        await served.encode(["boots"], kind=types_pb2.TEXT_KIND_UNSPECIFIED)


async def test_100_kb_of_text_are_cut_or_refused_as_asked(served):
    long = ("boots " * 20_000)[:100_000]
    answer = await served.encode(["boots", long])
    assert list(answer.truncated) == [1]
    assert served.metric("vitrine_encoder_truncated_total") == 1
    with pytest.raises(InvalidArgument, match=r"texts\[1\]"):
        await served.encode(["boots", long], refuse_truncation=True)


async def test_another_encoder_is_refused_with_both_ids(served, encoder):
    with pytest.raises(FailedPrecondition) as refused:
        await served.encode(["boots"], encoder_id="0" * 24)
    assert refused.value.reason == "ENCODER_MISMATCH"
    assert (refused.value.expected, refused.value.got) == ("0" * 24, encoder.bundle.encoder_id)


async def test_full_queue_is_refused_at_once_with_a_time_to_retry(served):
    bulk = asyncio.create_task(served.encode(["boots " * 300] * 16, kind=ITEM))
    while not served.pool.waiting_texts(Lane.ITEM):
        await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted) as refused:
        await served.encode(["boots"] * 16, kind=ITEM)
    assert refused.value.retry_after_s > 0
    assert len((await served.encode(["boots"])).embeddings) == 384 * 4
    assert not bulk.done()
    await bulk


async def test_deadline_is_kept_and_the_rest_is_dropped(served):
    started_s = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        await served.encode(["boots " * 300] * 16, kind=ITEM, timeout_s=0.05)
    assert time.monotonic() - started_s < 5
    # What is left over is at most the text in work; a query is served right after.
    await served.encode(["boots"])


async def test_a_full_queue_of_tokens_says_when_to_come_again(encoder, minilm_bundle):
    settings = EncoderSettings(bundle=minilm_bundle, queue_tokens_max=2_000)
    async with Served(encoder, settings) as served:
        served.open()
        bulk = asyncio.create_task(served.encode(["boots " * 300] * 8, kind=ITEM))
        while not served.pool.waiting_tokens(Lane.ITEM):
            await asyncio.sleep(0)
        with pytest.raises(ResourceExhausted, match="and 2000 tokens") as refused:
            await served.encode(["boots " * 300] * 8, kind=ITEM)
        assert 0 < refused.value.retry_after_s <= 30
        await bulk


async def test_what_a_cancelled_call_asked_for_is_dropped(served):
    bulk = asyncio.create_task(served.encode(["boots " * 300] * 16, kind=ITEM))
    while not served.pool.waiting_texts(Lane.ITEM):
        await asyncio.sleep(0)
    bulk.cancel()
    await asyncio.gather(bulk, return_exceptions=True)
    while served.pool.waiting_texts(Lane.ITEM):
        await asyncio.sleep(0.001)
    assert served.metric("vitrine_encoder_dropped_total", "item") >= 10
    assert served.metric("vitrine_encoder_texts_total", "item") == 0


SCRIPTS = [
    "warm winter coat", "тёплое зимнее пальто", "冬の暖かいコート", "温暖的冬衣",
    "따뜻한 겨울 코트", "معطف شتوي دافئ", "מעיל חורף חם", "गर्म सर्दियों का कोट", "เสื้อโค้ทกันหนาว",
    "ζεστό παλτό", "ሙቅ የክረምት ካፖርት", "🧥❄️", "Größe 42 ½ №5",
    "a\u0301 e\u0301", "\U00020000\U0001f9e5",
]  # fmt: skip


@pytest.mark.parametrize("kind", [QUERY, ITEM])
async def test_every_script_encodes_in_one_call_as_it_does_alone(served, kind):
    answer = await served.encode(SCRIPTS, kind=kind)
    together = unpack(answer.embeddings, answer.dim)
    assert np.linalg.norm(together, axis=1) == pytest.approx(1.0, abs=1e-4)
    for text, row in zip(SCRIPTS, together, strict=True):
        alone = await served.encode([text], kind=kind)
        assert unpack(alone.embeddings, alone.dim)[0] @ row >= 0.9999


@pytest.mark.parametrize("text", ["\0", "\u200b", "\x01\x02", "\ufeff", "\u200d" * 50])
async def test_texts_of_zero_tokens_have_the_vector_of_an_empty_text(served, encoder, text):
    answer = await served.encode([text])
    assert answer.tokens == 2
    (empty,) = encoder.encode([""])
    assert unpack(answer.embeddings, answer.dim)[0] @ empty >= 0.9999


async def test_nul_amid_a_text_is_no_end(served):
    answer = await served.encode(["red\0dress", "reddress", "red"])
    rows = unpack(answer.embeddings, answer.dim)
    assert rows[0] @ rows[1] >= 0.9999 > rows[0] @ rows[2]


@pytest.mark.parametrize("text", [b"\xed\xa0\x80", b"boots \xed\xb0\x80", b"\xff", b"\xc0\x80"])
async def test_unpaired_surrogates_and_other_bad_utf8_are_refused(served, text):
    # Field 1, one text, and field 2, a query: what no library would write.
    request = b"\x0a" + bytes([len(text)]) + text + b"\x10\x01"
    encode = served.channel.unary_unary("/vitrine.v1.EncoderService/Encode")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await encode(request, timeout=30)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    await served.encode(["boots"])


@pytest.mark.parametrize(
    "text", ["x" * 100_000, "boots " * 16_666, "冬" * 33_333, "\u200b" * 33_333]
)
async def test_texts_of_100_000_bytes_are_encoded(served, text):
    answer = await served.encode([text], kind=ITEM)
    (row,) = unpack(answer.embeddings, answer.dim)
    assert np.linalg.norm(row) == pytest.approx(1.0, abs=1e-4)


async def test_rerank_says_that_it_is_not_served_without_a_bundle(served):
    with pytest.raises(Unimplemented):
        await served.rerank("a", ["b"])


@pytest.fixture
async def reranking(encoder, minilm_bundle, cross_encoder):
    settings = EncoderSettings(bundle=minilm_bundle, reranker_bundle=cross_encoder)
    reranker = load_reranker(load_bundle(cross_encoder))
    async with Served(encoder, settings, reranker) as served:
        served.open()
        yield served


async def test_rerank_scores_the_texts_in_their_order(reranking):
    texts = ["Linen dress", "Winter parka, down", "Rubber hose 20 m", "boots " * 500]
    answer = await reranking.rerank("warm coat", texts)
    alone = [(await reranking.rerank("warm coat", [text])).scores[0] for text in texts]
    assert list(answer.scores) == pytest.approx(alone, abs=1e-4)
    assert len(set(answer.scores)) == 4
    assert answer.reranker_id == reranking.reranker.bundle.encoder_id
    assert answer.compute_us > 0
    assert reranking.metric("vitrine_encoder_texts_total", "rerank") == 8
    assert reranking.metric("vitrine_encoder_truncated_total", "rerank") == 2
    assert (await reranking.stub.DescribeEncoder(encoder_pb2.DescribeEncoderRequest())).can_rerank


async def test_rerank_says_which_pairs_were_cut_or_refuses_them_as_asked(reranking):
    texts = ["Rubber hose 20 m", "boots " * 500, "Linen dress", "coat " * 500]
    answer = await reranking.rerank("warm coat", texts)
    assert list(answer.truncated) == [1, 3]
    pairs = reranking.reranker.tokenize([("warm coat", text) for text in texts])
    assert answer.tokens == sum(tokens.ids.size for tokens in pairs)
    with pytest.raises(InvalidArgument, match=r"texts\[1\] is .*; allowed texts that fit"):
        await reranking.rerank("warm coat", texts[:2], refuse_truncation=True)
    whole = await reranking.rerank("warm coat", texts[::2], refuse_truncation=True)
    assert (len(whole.scores), list(whole.truncated)) == (2, [])


@pytest.mark.parametrize(
    ("query", "texts", "field"),
    [
        (" ", ["a"], "query is ' '; allowed a text that is not blank"),
        ("é" * 50_001, ["a"], "query is '100002 bytes long'"),
        ("a", [], "texts is '0 texts'; allowed 1..1000 texts"),
        ("a", ["b"] * 1001, "texts is '1001 texts'; allowed 1..1000 texts"),
        ("a", ["b", ""], r"texts\[1\] is ''; allowed a text that is not blank"),
    ],
)
async def test_rerank_refuses_what_the_contract_does_not_allow(reranking, query, texts, field):
    with pytest.raises(InvalidArgument, match=field):
        await reranking.rerank(query, texts)


async def test_rerank_keeps_its_deadline(reranking):
    with pytest.raises(DeadlineExceeded):
        await reranking.rerank("warm coat", ["boots " * 16_000] * 40, timeout_s=0.2)
    assert (await reranking.rerank("warm coat", ["boots"])).scores


async def test_before_it_is_warm_nothing_is_answered(encoder, minilm_bundle):
    async with Served(encoder, EncoderSettings(bundle=minilm_bundle)) as cold:
        with pytest.raises(Unavailable) as refused:
            await cold.encode(["boots"])
        assert refused.value.reason == "WARMING"
