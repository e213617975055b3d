"""Nobody pays for a first time: every length has been run on every session before it is served."""

import json
import os
import subprocess
import sys

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from encoder_service.bundle import load_bundle
from encoder_service.layout import Layout
from encoder_service.model import LoadedModel
from encoder_service.session import Session
from encoder_service.tokenizer import Tokenizer
from protos.vitrine.v1 import encoder_pb2, encoder_pb2_grpc, types_pb2
from tests.encoder_service.cross_encoder import MAX_TOKENS
from tests.encoder_service.test_process import logged

SERVING, NOT_SERVING = (
    health_pb2.HealthCheckResponse.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING,
)
# The service, whose models say that they begin to warm, and do so once a line comes in.
HELD_BACK = """
import os, sys, threading
from encoder_service.__main__ import main
from encoder_service.model import LoadedModel

warm, may_warm = LoadedModel.warm, threading.Event()

def warm_when_told(model):
    # In one piece: each lane's model says so, on a thread of its own.
    os.write(2, b'{"event":"warming"}\\n')
    may_warm.wait()
    warm(model)

def wait_for_a_line():
    sys.stdin.readline()
    may_warm.set()

LoadedModel.warm = warm_when_told
threading.Thread(target=wait_for_a_line, daemon=True).start()
main()
"""


class Recording:
    """Runs what a session does, and keeps the lengths that it ran."""

    def __init__(self, session):
        self.lengths = []
        self._session = session

    def run(self, output, feed):
        self.lengths.append(feed["input_ids"].shape[1])
        return self._session.run(output, feed)


@pytest.fixture
def make_model(cross_encoder, monkeypatch):
    """Loads a model on as many cores as a test says."""

    def make(layout, cores=2):
        monkeypatch.setattr("encoder_service.session.usable_cores", lambda: cores)
        bundle = load_bundle(cross_encoder)
        session = Session(bundle, output="score", width=None, layout=layout)
        return LoadedModel(bundle, Tokenizer(bundle), session)

    return make


def test_every_length_is_run_on_each_session_the_longest_first(make_model):
    model = make_model(Layout.LATENCY)
    narrow = model.session._narrow = Recording(model.session._narrow)
    wide = model.session._wide = Recording(model.session._wide)
    model.warm()
    assert narrow.lengths == wide.lengths == [MAX_TOKENS, 32, 16, 8, 4]


def test_a_text_too_short_for_every_core_is_warmed_where_it_runs(make_model):
    model = make_model(Layout.AUTO)
    model.session.spread_from = 16.0
    narrow = model.session._narrow = Recording(model.session._narrow)
    wide = model.session._wide = Recording(model.session._wide)
    model.warm()
    assert wide.lengths == [MAX_TOKENS, 32, 16]
    assert sorted(set(narrow.lengths)) == [4, 8, 16, 32, MAX_TOKENS]


@pytest.mark.parametrize(("layout", "cores"), [(Layout.THROUGHPUT, 2), (Layout.LATENCY, 1)])
def test_one_session_is_warmed_where_there_is_no_other(make_model, layout, cores):
    model = make_model(layout, cores)
    assert model.session._wide is None
    narrow = model.session._narrow = Recording(model.session._narrow)
    model.warm()
    assert narrow.lengths == [MAX_TOKENS, 32, 16, 8, 4]


def health_of(channel):
    request = health_pb2.HealthCheckRequest(service="vitrine.v1.EncoderService")
    return health_pb2_grpc.HealthStub(channel).Check(request, timeout=20).status


def test_process_is_not_serving_until_it_is_warm(tmp_path, minilm_bundle):
    command = [sys.executable, "-c", HELD_BACK, "--bundle", str(minilm_bundle), "--port", "0"]
    command += ["--http-port", "0", "--announce-file", str(tmp_path / "encoder.json")]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    boots = encoder_pb2.EncodeRequest(texts=["boots"], kind=types_pb2.TEXT_KIND_QUERY)
    try:
        logged(process, "warming")
        announced = json.loads((tmp_path / "encoder.json").read_text())
        with grpc.insecure_channel(announced["address"]) as channel:
            stub = encoder_pb2_grpc.EncoderServiceStub(channel)
            assert health_of(channel) == NOT_SERVING
            with pytest.raises(grpc.RpcError) as refused:
                stub.Encode(boots, timeout=20)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            process.stdin.write("now\n")
            process.stdin.flush()
            logged(process, "serving")
            assert health_of(channel) == SERVING
            assert stub.Encode(boots, timeout=20).tokens == 3
    finally:
        process.kill()
        process.communicate()
