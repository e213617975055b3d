"""The encoder service as a process: how it starts, refuses to, and stops."""

import json
import os
import signal
import subprocess
import sys
import urllib.request

import grpc
import numpy as np
import pytest

from encoder_service.bundle import load_bundle
from encoder_service.reranker import load_reranker
from protos.vitrine.v1 import encoder_pb2, encoder_pb2_grpc, types_pb2
from rpc.cpu import cpu_features
from tests.encoder_service.cross_encoder import with_scores


def start(bundle, tmp_path, **environment):
    command = [sys.executable, "-m", "encoder_service", "--bundle", str(bundle), "--port", "0"]
    command += ["--http-port", "0", "--announce-file", str(tmp_path / "encoder.json")]
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )


def logged(process, event):
    """Read log lines up to an event; fail when the process ends before."""
    seen = []
    for line in process.stderr:
        seen.append(line)
        if f'"event":"{event}"' in line:
            return json.loads(line)
    raise AssertionError(f"no {event} in the log: {''.join(seen)}")


def test_process_serves_shows_metrics_and_stops_when_told(tmp_path, minilm_bundle):
    process = start(minilm_bundle, tmp_path)
    try:
        assert logged(process, "serving")["reference_cosine"] >= 0.99
        announced = json.loads((tmp_path / "encoder.json").read_text())
        with grpc.insecure_channel(announced["address"]) as channel:
            stub = encoder_pb2_grpc.EncoderServiceStub(channel)
            answer = stub.Encode(
                encoder_pb2.EncodeRequest(texts=["boots"], kind=types_pb2.TEXT_KIND_QUERY),
                timeout=20,
            )
            # 256 texts of 100,000 bytes, each within its limit, are more than a message may have.
            full = encoder_pb2.EncodeRequest(
                texts=["x" * 100_000] * 256, kind=types_pb2.TEXT_KIND_ITEM
            )
            with pytest.raises(grpc.RpcError) as too_large:
                stub.Encode(full, timeout=20)
            assert too_large.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert len(answer.embeddings) == 384 * 4
        page = f"http://{announced['http_address']}/metrics"
        metrics = urllib.request.urlopen(page, timeout=20).read().decode()
        assert "vitrine_encoder_reference_cosine 0.99" in metrics
        assert "vitrine_encoder_reference_cosine_least 0.9" in metrics
        assert 'vitrine_encoder_texts_total{lane="query"} 1.0' in metrics
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert process.returncode == 0
    finally:
        process.kill()


@pytest.mark.parametrize("known", [True, False])
def test_process_says_whether_its_processor_is_among_those_verified(tmp_path, bundle_copy, known):
    path = bundle_copy / "encoder.json"
    document = json.loads(path.read_text())
    features = cpu_features() if known else ["another"]
    document["verified_on"] = [{"cpu_features": features}]
    path.write_text(json.dumps(document))
    process = start(bundle_copy, tmp_path)
    try:
        assert logged(process, "serving")["verified_here"] is known
        announced = json.loads((tmp_path / "encoder.json").read_text())
        with grpc.insecure_channel(announced["address"]) as channel:
            stub = encoder_pb2_grpc.EncoderServiceStub(channel)
            described = stub.DescribeEncoder(encoder_pb2.DescribeEncoderRequest(), timeout=20)
        assert described.verified_here is known
    finally:
        process.kill()
        process.communicate()


def test_process_that_is_told_to_stop_while_it_loads_does_not_finish_loading(
    tmp_path, minilm_bundle
):
    process = start(minilm_bundle, tmp_path)
    try:
        logged(process, "listening")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0
        assert '"event":"stopped"' in errors
        assert '"event":"serving"' not in errors
    finally:
        process.kill()


def test_process_refuses_noise_unless_overridden(tmp_path, noisy_bundle):
    refused = start(noisy_bundle, tmp_path)
    _, errors = refused.communicate(timeout=60)
    assert refused.returncode == 1
    assert errors.splitlines()[-1].startswith("error: ")
    assert "mean cosine of" in errors
    assert "Traceback" not in errors
    overridden = start(noisy_bundle, tmp_path, VITRINE_ENCODER_SERVE_BELOW_REFERENCE_COSINE="true")
    try:
        assert "mean cosine" in logged(overridden, "reference_check_overridden")["reason"]
        logged(overridden, "serving")
        announced = json.loads((tmp_path / "encoder.json").read_text())
        page = f"http://{announced['http_address']}/metrics"
        metrics = urllib.request.urlopen(page, timeout=20).read().decode()
        assert "vitrine_encoder_reference_check_overridden 1.0" in metrics
    finally:
        overridden.kill()
        overridden.communicate()


def test_process_refuses_a_bundle_that_makes_noise_of_a_few_texts(tmp_path, partly_noisy_bundle):
    refused = start(partly_noisy_bundle, tmp_path)
    _, errors = refused.communicate(timeout=60)
    assert refused.returncode == 1
    assert "each needs at least 0.9" in errors.splitlines()[-1]


def test_process_refuses_a_tokenizer_of_the_same_size_and_another_vocabulary(
    tmp_path, bundle_copy, reseal
):
    path = bundle_copy / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    words = [word for word in vocabulary if not word.startswith("[")]
    ids = np.random.default_rng(3).permutation([vocabulary[word] for word in words])
    vocabulary |= dict(zip(words, ids.tolist(), strict=True))
    path.write_text(json.dumps(tokenizer))
    reseal()
    refused = start(bundle_copy, tmp_path)
    _, errors = refused.communicate(timeout=60)
    assert refused.returncode == 1
    assert "mean cosine of" in errors.splitlines()[-1]


def test_damaged_bundle_ends_the_process_with_a_sentence(tmp_path, bundle_copy):
    (bundle_copy / "tokenizer.json").unlink()
    process = start(bundle_copy, tmp_path)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.splitlines()[-1].endswith("tokenizer.json: is missing; export the bundle again")


def test_process_serves_a_reranker_and_refuses_one_that_makes_noise(
    tmp_path, minilm_bundle, cross_encoder, cross_encoder_copy
):
    process = start(minilm_bundle, tmp_path, VITRINE_ENCODER_RERANKER_BUNDLE=str(cross_encoder))
    try:
        assert logged(process, "serving")["reranker_spearman"] == 1.0
        announced = json.loads((tmp_path / "encoder.json").read_text())
        with grpc.insecure_channel(announced["address"]) as channel:
            stub = encoder_pb2_grpc.EncoderServiceStub(channel)
            request = encoder_pb2.RerankRequest(query="coat", texts=["parka", "hose"])
            assert len(stub.Rerank(request, timeout=20).scores) == 2
    finally:
        process.kill()
        process.communicate()
    scores = load_reranker(load_bundle(cross_encoder)).references.scores
    noisy = with_scores(cross_encoder_copy, np.random.default_rng(1).permutation(scores))
    refused = start(minilm_bundle, tmp_path, VITRINE_ENCODER_RERANKER_BUNDLE=str(noisy))
    _, errors = refused.communicate(timeout=60)
    assert refused.returncode == 1
    assert "rank correlation of" in errors.splitlines()[-1]


def test_process_refuses_an_encoder_where_a_reranker_is_needed(tmp_path, minilm_bundle):
    process = start(minilm_bundle, tmp_path, VITRINE_ENCODER_RERANKER_BUNDLE=str(minilm_bundle))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.splitlines()[-1].endswith("holds a bi_encoder; a cross_encoder is needed here")
