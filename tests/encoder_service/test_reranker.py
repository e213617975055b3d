import asyncio

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from encoder_service.bundle import encoder_id, load_bundle, read_description
from encoder_service.encoder import load_encoder
from encoder_service.lanes import Bounds, Lane
from encoder_service.pool import WorkerPool
from encoder_service.reranker import load_reranker, spearman
from rpc.errors import DataLoss, FailedPrecondition
from tests.encoder_service.cross_encoder import MAX_TOKENS, PAIRS, with_scores, write_cross_encoder
from tests.encoder_service.test_encoder import Unobserved

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@pytest.fixture
def reranker(cross_encoder):
    return load_reranker(load_bundle(cross_encoder))


@pytest.fixture
def pool(reranker):
    pool = WorkerPool(
        {Lane.RERANK: reranker}, workers=2, bounds=Bounds(4096, 1_000_000), observer=Unobserved()
    )
    yield pool
    pool.close()


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(words, words), min_size=2, max_size=8))
async def test_a_score_is_a_function_of_its_pair_alone(pool, reranker, pairs):
    alone = reranker.score(pairs)
    together, backwards = await asyncio.gather(
        pool.run(pairs, Lane.RERANK), pool.run(pairs[::-1], Lane.RERANK)
    )
    np.testing.assert_allclose(together.values, alone, atol=1e-4)
    np.testing.assert_allclose(backwards.values[::-1], alone, atol=1e-4)


def test_the_order_of_a_pair_matters(reranker):
    there, back = reranker.score([("warm coat", "dress"), ("dress", "warm coat")])
    assert there != pytest.approx(back)


def test_the_longer_text_of_a_pair_is_cut_first(reranker):
    query = "waterproof boots"
    (whole,) = reranker.tokenize([(query, "boots")])
    (cut,) = reranker.tokenize([(query, "boots " * 500)])
    assert (cut.ids.size, cut.truncated, whole.truncated) == (MAX_TOKENS, True, False)
    num_query = int((whole.types == 0).sum())
    np.testing.assert_array_equal(cut.ids[0, :num_query], whole.ids[0, :num_query])
    (both,) = reranker.tokenize([("coat " * 500, "boots " * 500)])
    assert abs(int(both.types.sum()) * 2 - MAX_TOKENS) <= 2


def test_a_graph_without_token_types_is_served_too(tmp_path, minilm_bundle):
    tokenizer = (minilm_bundle / "tokenizer.json").read_bytes()
    folder = write_cross_encoder(tmp_path / "plain", tokenizer, types=False)
    assert load_reranker(load_bundle(folder)).check_references().spearman == pytest.approx(1.0)


def test_recorded_scores_are_met_here(reranker):
    check = reranker.check_references()
    assert check.pairs == len(PAIRS)
    assert check.spearman == pytest.approx(1.0)
    assert check.largest_difference < 1e-5


def test_scores_of_other_pairs_are_told_from_the_recorded_ones(cross_encoder_copy, reranker):
    noise = np.random.default_rng(1).permutation(reranker.references.scores)
    noisy = load_reranker(load_bundle(with_scores(cross_encoder_copy, noise)))
    assert noisy.check_references().spearman < 0.9


def test_scores_that_are_no_numbers_correlate_with_nothing():
    assert spearman(np.float32([1, np.nan, 3]), np.float32([1, 2, 3])) == -1.0
    assert spearman(np.float32([]), np.float32([])) == -1.0


def test_a_bundle_of_the_other_kind_is_refused(cross_encoder, minilm_bundle):
    with pytest.raises(FailedPrecondition, match="holds a cross_encoder; a bi_encoder is needed"):
        load_encoder(load_bundle(cross_encoder))
    with pytest.raises(FailedPrecondition, match="holds a bi_encoder; a cross_encoder is needed"):
        load_reranker(load_bundle(minilm_bundle))


def test_a_kind_that_nobody_knows_is_refused(cross_encoder_copy):
    text = (cross_encoder_copy / "encoder.json").read_text()
    (cross_encoder_copy / "encoder.json").write_text(text.replace("cross_encoder", "tri_encoder"))
    with pytest.raises(DataLoss, match="kind is 'tri_encoder'; known are bi_encoder"):
        load_bundle(cross_encoder_copy)


def test_the_kind_is_part_of_a_cross_encoders_id_only(cross_encoder):
    document = read_description(cross_encoder)
    without = {key: value for key, value in document.items() if key != "kind"}
    assert encoder_id(document) != encoder_id(without)
    assert encoder_id(without | {"kind": "bi_encoder"}) == encoder_id(without)
