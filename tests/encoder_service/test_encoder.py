import json
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from encoder_service.bundle import load_bundle
from encoder_service.encoder import ReferenceCheck, load_encoder
from encoder_service.settings import ReferenceSettings

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
shared = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Unobserved:
    def ended(self, lane, done):
        pass

    def dropped(self, lane, texts):
        pass


def cosine_of_rows(left, right):
    return (left * right).sum(axis=1) / (
        np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    )


@shared
@given(texts)
def test_every_core_for_one_text_gives_the_vector_that_one_core_gives(encoder, text):
    (tokens,) = encoder.tokenize([text])
    one_core, every_core = encoder.run(tokens), encoder.run(tokens, alone=True)
    assert cosine_of_rows(one_core[None], every_core[None]).min() >= 0.9999


@shared
@given(texts)
def test_every_script_gives_a_unit_vector(encoder, text):
    (vector,) = encoder.encode([text])
    assert np.isfinite(vector).all()
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("text", ["\0", "\0" * 50, "", "\u200b", "🎁", "ﷺ" * 100, "a\0b"])
def test_texts_of_no_tokens_and_odd_characters_encode(encoder, text):
    (vector,) = encoder.encode([text])
    assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-4)


def test_a_text_without_any_token_is_the_unknown_one(bundle_copy, reseal):
    path = bundle_copy / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["post_processor"] = None
    path.write_text(json.dumps(tokenizer))
    reseal()
    bare = load_encoder(load_bundle(bundle_copy))
    empty, nul, word = bare.tokenize(["", "\0", "boots"])
    unknown = tokenizer["model"]["vocab"]["[UNK]"]
    assert empty.ids.tolist() == nul.ids.tolist() == [[unknown]]
    assert word.ids.shape == (1, 1)
    (pair,) = bare.tokenize([("", "\0")])
    assert pair.ids.shape == pair.types.shape == (1, 1)
    assert np.linalg.norm(bare.encode(["", "\0"]), axis=1) == pytest.approx(1.0, abs=1e-4)


def test_long_text_is_cut_and_says_so(encoder):
    long, short = encoder.tokenize(["boots " * 20_000, "boots"])
    assert long.truncated
    assert long.ids.shape == (1, 256)
    assert not short.truncated
    exact = encoder.tokenize(["boots " * 254])[0]
    assert (exact.truncated, exact.ids.size) == (False, 256)


def test_reference_vectors_are_met_here(encoder):
    check = encoder.check_references()
    assert check.texts >= 32
    assert check.mean >= 0.99
    assert check.least > 0.9


def test_one_text_of_noise_is_not_hidden_by_the_mean_of_all(partly_noisy_bundle):
    check = load_encoder(load_bundle(partly_noisy_bundle)).check_references()
    limits = ReferenceSettings()
    assert check.mean >= limits.reference_cosine_min
    assert check.least < limits.reference_cosine_each_min
    assert re.search(r"has a cosine of .* each needs at least 0\.9", check.shortfall(limits))


def test_a_vector_that_is_no_number_passes_no_limit():
    nowhere = ReferenceCheck(texts=3, mean=float("nan"), least=float("nan"))
    assert nowhere.shortfall(ReferenceSettings(reference_cosine_min=-1))


def test_queries_mean_what_they_say(encoder):
    query, near, far = encoder.encode(
        ["waterproof boots for rain", "Rain Boots, Rubber, Navy", "Stainless Steel Kettle 1.7 L"]
    )
    assert query @ near > query @ far + 0.2
