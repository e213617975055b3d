import json
import subprocess
import sys

import numpy as np
import orjson
import pytest

from encoder_service.bundle import (
    REQUIRED_FILES,
    encoder_id,
    load_bundle,
    read_description,
    read_references,
)
from encoder_service.encoder import load_encoder
from rpc.cpu import cpu_features
from rpc.errors import DataLoss, FailedPrecondition
from tests.encoder_service.cross_encoder import PAIRS, graph_of, with_scores
from training.bundle_files import encoder_id as encoder_id_of_export


def edit(bundle, **changes):
    path = bundle / "encoder.json"
    document = orjson.loads(path.read_bytes()) | changes
    path.write_bytes(orjson.dumps(document))
    return document


def test_reader_and_writer_agree_on_the_id(minilm_bundle):
    document = read_description(minilm_bundle)
    assert encoder_id(document) == document["encoder_id"]
    assert encoder_id_of_export(document, document["files"]) == document["encoder_id"]


def test_sound_bundle_loads(minilm_bundle):
    bundle = load_bundle(minilm_bundle)
    assert (bundle.dim, bundle.max_tokens, bundle.quantization) == (384, 256, "int8")
    references = read_references(bundle)
    assert len(references.texts) >= 32
    assert np.allclose(np.linalg.norm(references.vectors, axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize("name", ["encoder.json", *REQUIRED_FILES])
def test_missing_file_is_named(bundle_copy, name):
    (bundle_copy / name).unlink()
    with pytest.raises(DataLoss, match=rf"{name}: is missing"):
        load_bundle(bundle_copy)


@pytest.mark.parametrize("name", REQUIRED_FILES)
def test_one_flipped_bit_is_found_and_the_file_named(bundle_copy, name):
    path = bundle_copy / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataLoss, match=rf"{name}: its SHA-256 differs"):
        load_bundle(bundle_copy)


def test_truncated_file_is_found(bundle_copy):
    path = bundle_copy / "model.onnx"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataLoss, match=r"model\.onnx: has \d+ bytes, \d+ are recorded"):
        load_bundle(bundle_copy)


def test_another_format_version_is_refused(bundle_copy):
    edit(bundle_copy, format_version=2)
    with pytest.raises(FailedPrecondition, match="format_version is 2; this version reads 1"):
        load_bundle(bundle_copy)


def test_edited_template_is_refused_because_it_changes_vectors(bundle_copy):
    edit(bundle_copy, item_template="{title} {brand}")
    with pytest.raises(DataLoss, match="it was edited"):
        load_bundle(bundle_copy)


def test_processors_that_it_was_verified_on_are_known_by_their_features(bundle_copy):
    edit(bundle_copy, verified_on=[{"cpu_features": ["avx2"]}, {"cpu_features": ["asimd", "i8mm"]}])
    bundle = load_bundle(bundle_copy)
    assert bundle.is_verified_on(["avx2"])
    assert bundle.is_verified_on(["i8mm", "asimd"])
    assert not bundle.is_verified_on(["asimd"])
    assert not bundle.is_verified_on(["avx2", "avx512_vnni"])


@pytest.mark.parametrize("verified_on", [{"cpu_features": []}, [["avx2"]], [{}], 3])
def test_nonsense_about_processors_is_refused_by_name(bundle_copy, verified_on):
    edit(bundle_copy, verified_on=verified_on)
    with pytest.raises(DataLoss, match=r"encoder\.json: field missing or of the wrong type"):
        load_bundle(bundle_copy)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"format_version": 1}'])
def test_nonsense_description_is_refused_by_name(bundle_copy, content):
    (bundle_copy / "encoder.json").write_bytes(content)
    with pytest.raises((DataLoss, FailedPrecondition), match=r"encoder\.json"):
        load_bundle(bundle_copy)


def test_tokenizer_with_more_tokens_than_the_graph_is_refused(bundle_copy, reseal):
    path = bundle_copy / "tokenizer.json"
    tokenizer = orjson.loads(path.read_bytes())
    tokenizer["model"]["vocab"]["vitrine"] = 40_000
    path.write_bytes(orjson.dumps(tokenizer))
    reseal()
    with pytest.raises(DataLoss, match=r"tokenizer\.json: has token id 40000"):
        load_encoder(load_bundle(bundle_copy))


def test_file_that_is_no_graph_is_refused_by_name(bundle_copy, reseal):
    (bundle_copy / "model.onnx").write_bytes(b"not a graph")
    reseal()
    with pytest.raises(DataLoss, match=r"model\.onnx: cannot be loaded"):
        load_encoder(load_bundle(bundle_copy))


def test_graph_without_the_inputs_and_outputs_of_an_encoder_is_refused(bundle_copy, reseal):
    (bundle_copy / "model.onnx").write_bytes(graph_of(types=True).SerializeToString())
    reseal()
    with pytest.raises(
        DataLoss, match=r"model\.onnx: has inputs .* and outputs \['score'\]: not a"
    ):
        load_encoder(load_bundle(bundle_copy))


def test_graph_of_another_dim_is_refused(bundle_copy, reseal):
    edit(bundle_copy, dim=768)
    reseal()
    with pytest.raises(DataLoss, match=r"model\.onnx: makes 384 values, 768 are recorded"):
        load_encoder(load_bundle(bundle_copy))


def test_graph_that_cannot_take_the_longest_text_is_refused(bundle_copy, reseal):
    edit(bundle_copy, max_tokens=5000)
    reseal()
    with pytest.raises(DataLoss, match=r"model\.onnx: cannot take 5000 tokens"):
        load_encoder(load_bundle(bundle_copy))


def test_file_that_is_no_tokenizer_is_refused_by_name(bundle_copy, reseal):
    (bundle_copy / "tokenizer.json").write_bytes(b"{}")
    reseal()
    with pytest.raises(DataLoss, match=r"tokenizer\.json: is not a tokenizer file"):
        load_encoder(load_bundle(bundle_copy))


@pytest.mark.parametrize("content", [b"", b"{}", b'{"references": [{"text": "a", "vector": "x"}]}'])
def test_references_that_cannot_be_understood_are_refused(bundle_copy, reseal, content):
    (bundle_copy / "reference.json").write_bytes(content)
    reseal()
    with pytest.raises(DataLoss, match=r"reference\.json: cannot be understood"):
        load_encoder(load_bundle(bundle_copy))


def run_command(*arguments):
    command = [sys.executable, "-m", "encoder_service.bundle", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_inspect_and_verify_print_json(minilm_bundle):
    inspected = run_command("inspect", minilm_bundle)
    assert json.loads(inspected.stdout)["dim"] == 384
    verified = run_command("verify", minilm_bundle)
    assert verified.returncode == 0
    assert json.loads(verified.stdout)["reference_cosine_mean"] >= 0.99


def test_verify_refuses_vectors_that_are_not_the_recorded_ones(noisy_bundle):
    verified = run_command("verify", noisy_bundle)
    assert verified.returncode == 1
    assert verified.stdout == ""
    assert "error: " in verified.stderr
    assert "mean cosine of" in verified.stderr
    assert "Traceback" not in verified.stderr


def test_verify_scores_the_pairs_of_a_cross_encoder(cross_encoder, cross_encoder_copy):
    verified = run_command("verify", cross_encoder)
    assert verified.returncode == 0, verified.stderr
    figures = json.loads(verified.stdout)
    assert (figures["kind"], figures["reference_pairs"]) == ("cross_encoder", len(PAIRS))
    assert figures["reference_spearman"] == 1.0
    noise = np.random.default_rng(1).normal(size=len(PAIRS))
    refused = run_command("verify", with_scores(cross_encoder_copy, noise))
    assert refused.returncode == 1
    assert "rank correlation of" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_verify_records_this_processor_once_when_told_to(cross_encoder_copy):
    before = load_bundle(cross_encoder_copy)
    assert not before.is_verified_on(cpu_features())
    run_command("verify", cross_encoder_copy)
    assert load_bundle(cross_encoder_copy) == before, "nobody asked for it"
    recorded = [run_command("verify", cross_encoder_copy, "--record").stdout for _ in range(2)]
    assert [json.loads(printed)["recorded"] for printed in recorded] == [True, False]
    after = load_bundle(cross_encoder_copy)
    assert after.is_verified_on(cpu_features())
    assert after.encoder_id == before.encoder_id
    [entry] = read_description(cross_encoder_copy)["verified_on"]
    assert entry["reference_spearman"] == 1.0


def test_what_makes_noise_is_not_recorded(noisy_bundle):
    before = (noisy_bundle / "encoder.json").read_bytes()
    assert run_command("verify", noisy_bundle, "--record").returncode == 1
    assert (noisy_bundle / "encoder.json").read_bytes() == before
