"""As the service is put together for use: what a text gets does not depend on what runs beside."""

import asyncio
from itertools import cycle, islice

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from encoder_service.__main__ import prepare
from encoder_service.lanes import Lane
from encoder_service.metrics import EncoderMetrics
from encoder_service.service import EncoderService
from encoder_service.settings import EncoderSettings
from protos.vitrine.v1 import encoder_pb2, encoder_pb2_grpc, types_pb2
from rpc.client import open_channel
from rpc.interceptors import CallInterceptor
from rpc.telemetry import RpcMetrics
from rpc.vectors import unpack

MAX_TOKENS = 256
WORDS = ["boots", "waterproof", "для", "レインコート", "42", "größe", "SKU-88213-B", "dress,"]
COSINE_MIN = 0.9999


def words_in_turn(words, count):
    return " ".join(islice(cycle(words), count))


short = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
# Up to two tokens more than fit where each word is one token, and far more where it is several.
long = st.builds(
    words_in_turn,
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=5),
    st.integers(1, MAX_TOKENS),
)
batches = st.lists(short | long, min_size=2, max_size=5)
LENGTHS = [words_in_turn(["boots"], count) for count in (1, 14, 62, 126, 254, 255, 400)]
shared = settings(
    max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)


@pytest.fixture
def shipped(minilm_bundle):
    """The models and the pool, as the process makes them from its default settings."""
    settings = EncoderSettings(bundle=minilm_bundle)
    metrics = EncoderMetrics(RpcMetrics("encoder", "test"))
    models, _ = prepare(settings, metrics)
    yield models
    models.pool.close()


def least_cosine(left, right):
    """Return the least cosine of rows; all of them have unit length."""
    return float((left * right).sum(axis=1).min())


@shared
@example(LENGTHS, Lane.QUERY)
@example(LENGTHS, Lane.ITEM)
@given(batches, st.sampled_from((Lane.QUERY, Lane.ITEM)))
async def test_a_text_has_the_same_vector_alone_in_any_batch_and_under_load(shipped, batch, lane):
    pool = shipped.pool
    alone = np.concatenate([(await pool.run([text], lane)).values for text in batch])
    async with asyncio.TaskGroup() as load:
        for text in batch:
            load.create_task(pool.run([text * 3, "boots"], Lane.ITEM))
            load.create_task(pool.run([text[::-1] or "a", text], Lane.QUERY))
        together = load.create_task(pool.run(batch, lane))
        backwards = load.create_task(pool.run(batch[::-1], lane))
    assert least_cosine(together.result().values, alone) >= COSINE_MIN
    assert least_cosine(backwards.result().values[::-1], alone) >= COSINE_MIN
    assert least_cosine(shipped.encoder.encode(batch), alone) >= COSINE_MIN


@pytest.fixture
async def stub(shipped, minilm_bundle):
    """A connection to a server of the shipped service."""
    service = EncoderService(EncoderSettings(bundle=minilm_bundle))
    service.open(shipped)
    interceptors = (CallInterceptor(RpcMetrics("encoder", "test"), 1024),)
    server = grpc.aio.server(interceptors=interceptors)
    encoder_pb2_grpc.add_EncoderServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with open_channel(f"127.0.0.1:{port}", 16 * 1024 * 1024) as channel:
        yield encoder_pb2_grpc.EncoderServiceStub(channel)
    await server.stop(grace=None)


async def encoded(stub, texts, kind):
    answer = await stub.Encode(encoder_pb2.EncodeRequest(texts=texts, kind=kind), timeout=60)
    return unpack(answer.embeddings, answer.dim)


async def test_over_the_wire_under_mixed_load_every_text_has_its_own_vector(shipped, stub):
    query, item = types_pb2.TEXT_KIND_QUERY, types_pb2.TEXT_KIND_ITEM
    rng = np.random.default_rng(7)
    lengths = rng.integers(1, MAX_TOKENS + 40, size=24)
    texts = [words_in_turn(list(rng.permutation(WORDS)), int(length)) for length in lengths]
    texts += ["a", "\u200b", "red dress", "冬" * 300]
    expected = shipped.encoder.encode(texts)

    async with asyncio.TaskGroup() as load:
        bulk = [load.create_task(encoded(stub, texts, item)) for _ in range(2)]
        lone = [load.create_task(encoded(stub, [text], query)) for text in texts]
        few = load.create_task(encoded(stub, texts[::-1], query))
    for task in bulk:
        assert least_cosine(task.result(), expected) >= COSINE_MIN
    assert least_cosine(few.result()[::-1], expected) >= COSINE_MIN
    rows = np.concatenate([task.result() for task in lone])
    assert least_cosine(rows, expected) >= COSINE_MIN
