import fcntl
import json
import shutil
import threading

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense
from torch.nn import ReLU, Tanh

from training import embeddings
from training.embeddings import (
    LOCK_FILE,
    TEXTS_FILE,
    VECTORS_FILE,
    TextEncoder,
    embed,
    hash_of,
    open_encoder,
)

TEXTS = ["warm boots", "a scarf for winter that is soft"]


def copy_of(model, folder, file, **keys):
    """Copy a model's folder, with keys of one of its JSON files changed."""
    shutil.copytree(model, folder)
    written = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**written, **keys}))
    return folder


@pytest.mark.parametrize(
    ("file", "keys"),
    [
        ("1_Pooling/config.json", {"pooling_mode": "cls"}),
        ("config.json", {"hidden_act": "relu"}),
        ("tokenizer_config.json", {"do_lower_case": False}),
    ],
    ids=["pooling", "activation", "tokenizer"],
)
def test_models_of_the_same_weights_and_other_settings_do_not_share_vectors(
    tiny_model, tmp_path, file, keys
):
    plain = open_encoder(str(tiny_model))
    other = open_encoder(str(copy_of(tiny_model, tmp_path / "other", file, **keys)))
    assert plain.fingerprint != other.fingerprint
    texts = ["Warm BOOTS", "red scarf"]
    embed(plain, texts, tmp_path / "cache", "texts")
    found = embed(other, texts, tmp_path / "cache", "texts")
    np.testing.assert_allclose(found, other.encode(texts), atol=1e-6)


def test_the_activation_of_a_layer_behind_changes_the_hash(tiny_model):
    hashes = set()
    layer = Dense(16, 8, activation_function=Tanh())
    for activation in (Tanh(), ReLU()):
        layer.activation_function = activation
        model = SentenceTransformer(str(tiny_model), device="cpu")
        hashes.add(hash_of(SentenceTransformer(modules=[*model, layer], device="cpu")))
    assert len(hashes) == 2


def test_the_hash_is_of_the_model_and_neither_of_its_place_nor_of_what_it_has_read(
    tiny_model, tmp_path
):
    here = SentenceTransformer(str(tiny_model), device="cpu")
    before = hash_of(here)
    here.encode(TEXTS)
    assert hash_of(here) == before
    there = copy_of(tiny_model, tmp_path / "there", "config.json", transformers_version="4.0.0")
    assert hash_of(SentenceTransformer(str(there), device="cpu")) == before


def vector_of(text):
    """A vector that no other text of a test has."""
    return np.array([len(text), ord(text[0]), ord(text[-1])], dtype=np.float32)


def encoder_that_counts(asked):
    def encode(texts):
        asked.extend(texts)
        return np.stack([vector_of(text) for text in texts])

    return TextEncoder("counts", "f1", 3, {}, encode)


def test_only_new_texts_are_encoded(tmp_path):
    asked = []
    encoder = encoder_that_counts(asked)
    embed(encoder, ["ab", "c", "ab"], tmp_path, "texts")
    found = embed(encoder, ["c", "defg"], tmp_path, "texts")
    assert asked == ["c", "ab", "defg"]
    np.testing.assert_array_equal(found, [vector_of("c"), vector_of("defg")])


def test_what_another_process_is_writing_is_waited_for_and_used(tmp_path, monkeypatch):
    asked, found, waits = [], [], threading.Event()
    monkeypatch.setattr(embeddings, "warn", lambda message: waits.set(), raising=False)
    encoder = encoder_that_counts(asked)
    embed(encoder, ["ab", "c"], tmp_path / "other", "texts")
    asked.clear()
    whole = {name: (tmp_path / "other" / "f1" / name).read_bytes() for name in
             (VECTORS_FILE, TEXTS_FILE)}  # fmt: skip

    folder = tmp_path / "cache" / "f1"
    folder.mkdir(parents=True)
    waiting = threading.Thread(
        target=lambda: found.append(embed(encoder, ["ab", "defg"], tmp_path / "cache", "texts"))
    )
    with (folder / LOCK_FILE).open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Between its two writes: both vectors are there, and neither has its name.
        (folder / VECTORS_FILE).write_bytes(whole[VECTORS_FILE])
        (folder / TEXTS_FILE).write_bytes(b"")
        waiting.start()
        assert waits.wait(timeout=20)
        assert (folder / VECTORS_FILE).read_bytes() == whole[VECTORS_FILE]
        (folder / TEXTS_FILE).write_bytes(whole[TEXTS_FILE])
    waiting.join(timeout=20)
    np.testing.assert_array_equal(found[0], [vector_of("ab"), vector_of("defg")])
    assert asked == ["defg"]


def test_no_other_process_gets_the_folder_while_texts_are_encoded(tmp_path):
    tried = []

    def encode(texts):
        with (tmp_path / "f1" / LOCK_FILE).open("wb") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        tried.extend(texts)
        return np.stack([vector_of(text) for text in texts])

    embed(TextEncoder("tries", "f1", 3, {}, encode), ["ab", "c"], tmp_path, "texts")
    assert tried == ["c", "ab"]
    with (tmp_path / "f1" / LOCK_FILE).open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
