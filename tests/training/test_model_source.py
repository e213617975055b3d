import json
import os
import subprocess
import sys

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Normalize,
    Pooling,
    Router,
    StaticEmbedding,
    Transformer,
)
from sentence_transformers.sparse_encoder.modules import (
    MLMTransformer,
    SparseAutoEncoder,
    SparseStaticEmbedding,
    SpladePooling,
)

from rpc.terminal import CommandError
from tests.training.small_models import make_model, vectors_of
from training.model_source import ModelSource, find_model, kind_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    "name", ["all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2", "all-minilm-l6-v2/"]
)
def test_the_packaged_model_is_found_by_its_own_names(minilm_model, name):
    assert find_model(name).location == str(minilm_model)


def test_the_packaged_model_is_not_taken_for_another_of_the_same_last_name():
    source = find_model("my-org/all-MiniLM-L6-v2")
    assert (source.location, source.name) == ("my-org/all-MiniLM-L6-v2", "all-MiniLM-L6-v2")


@pytest.mark.parametrize(
    "path",
    ["a/sentence-transformers/all-MiniLM-L6-v2", "runs/in-batch/model", "runs/", "/a", "./a"],
)
def test_a_path_that_is_no_folder_is_not_looked_for_on_a_hub(path):
    with pytest.raises(CommandError, match=r"there is no model folder .*, and it is no hub id"):
        find_model(path)


def test_a_hub_id_is_exported_from_its_snapshot(tmp_path, minilm_model):
    repository = tmp_path / "hub" / "models--my-org--all-MiniLM-L6-v2"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    snapshot = repository / "snapshots" / COMMIT
    make_model(snapshot, minilm_model)
    out = tmp_path / "bundle"
    command = [sys.executable, "-m", "training.export", "--model", "my-org/all-MiniLM-L6-v2"]
    done = subprocess.run(
        [*command, "--out", str(out), "--quantize", "none"],
        env=os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    encoder = json.loads((out / "encoder.json").read_text())
    assert (encoder["name"], encoder["dim"]) == ("all-MiniLM-L6-v2", 128)
    model = SentenceTransformer(str(snapshot), device="cpu")
    expected = model.encode(["red dress"], normalize_embeddings=True)
    assert np.abs(vectors_of(out, ["red dress"]) - expected).max() <= 1e-4


def described(folder, modules, model_type="SentenceTransformer"):
    """Write what a saved model says of itself, without weights."""
    folder.mkdir()
    listed = [{"type": f"{each.__module__}.{each.__name__}"} for each in modules]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))
    settings = json.dumps({"model_type": model_type})
    (folder / "config_sentence_transformers.json").write_text(settings)
    return ModelSource(str(folder), folder.name, "folder")


SPARSE, MANY = "is a sparse encoder", "a vector for every token"


@pytest.mark.parametrize(
    ("modules", "model_type", "sentence"),
    [
        ([MLMTransformer, SpladePooling], "SparseEncoder", SPARSE),
        ([MLMTransformer, SpladePooling], "SentenceTransformer", SPARSE),
        ([Transformer, Pooling, SparseAutoEncoder], "SparseEncoder", SPARSE),
        ([SparseStaticEmbedding], "SparseEncoder", SPARSE),
        ([Transformer, Dense, MultiVectorMask, Normalize], "MultiVectorEncoder", MANY),
        ([Transformer, Dense], "ColBERT", MANY),
        ([StaticEmbedding], "SentenceTransformer", "looks its vectors up in a table"),
        ([Router, Pooling], "SentenceTransformer", "different ways for queries and items"),
    ],
)
def test_a_model_of_other_vectors_is_refused_for_what_it_is(
    tmp_path, modules, model_type, sentence
):
    with pytest.raises(CommandError, match=f"is not a bi-encoder of one dense.*{sentence}.*give a"):
        kind_of(described(tmp_path / "model", modules, model_type))


def test_a_transformer_with_a_pooling_module_is_a_bi_encoder(tmp_path):
    assert kind_of(described(tmp_path / "model", [Transformer, Pooling, Dense])) == "bi_encoder"
