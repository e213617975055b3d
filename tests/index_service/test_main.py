"""An index service as a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos.vitrine.v1 import index_pb2, index_pb2_grpc
from rpc.active import Active, write_active
from rpc.vectors import pack
from tests.index_service.catalogue import ENCODER_ID, Catalogue, build, random_units

SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture
def home(tmp_path):
    rng = np.random.default_rng(0)
    build(Catalogue(random_units(rng, 300), random_units(rng, 8)), tmp_path, num_shards=2)
    return tmp_path


def command(home, *options):
    generations = ["--generations", str(home / "generations")]
    ports = ["--port", "0", "--http-port", "0"]
    return [sys.executable, "-m", "index_service", *generations, *ports, *options]


@contextmanager
def process(home, *options):
    """Start a service; yields its announcement and itself, and stops it."""
    announced = home / "announced.json"
    started = subprocess.Popen(
        command(home, "--announce-file", str(announced), *options),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(announced.exists, started)
        yield json.loads(announced.read_text()), started
    finally:
        started.kill()
        started.communicate()


def wait_until(condition, started):
    deadline = time.monotonic() + 60
    while not condition():
        assert started.poll() is None, started.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def health(channel, name=""):
    stub = health_pb2_grpc.HealthStub(channel)
    return stub.Check(health_pb2.HealthCheckRequest(service=name)).status


def test_the_promoted_generation_is_served_from_the_start(home):
    write_active(str(home / "generations"), Active().promoted(1, "promote", ""))
    with process(home, "--shard", "1") as (announced, started):
        with grpc.insecure_channel(announced["address"]) as channel:
            wait_until(lambda: health(channel) == SERVING, started)
            stub = index_pb2_grpc.IndexServiceStub(channel)
            described = stub.DescribeShard(index_pb2.DescribeShardRequest())
            assert (described.shard, described.generations[0].generation) == (1, 1)
        with urllib.request.urlopen(f"http://{announced['http_address']}/metrics") as page:
            metrics = page.read().decode()
        assert 'vitrine_index_items{generation="1"}' in metrics
        assert 'vitrine_index_load_seconds_count{step="load"} 1.0' in metrics
        started.send_signal(signal.SIGTERM)
        assert started.wait(20) == 0


def test_with_nothing_promoted_it_loads_when_told_and_serves_from_then_on(home):
    with (
        process(home) as (announced, started),
        grpc.insecure_channel(announced["address"]) as channel,
    ):
        name = "vitrine.v1.IndexService"
        stub = index_pb2_grpc.IndexServiceStub(channel)
        assert stub.DescribeShard(index_pb2.DescribeShardRequest()).generations == []
        assert health(channel, name) != SERVING
        with pytest.raises(urllib.error.HTTPError, match="503"):
            urllib.request.urlopen(f"http://{announced['http_address']}/healthz")
        stub.LoadGeneration(index_pb2.IndexServiceLoadGenerationRequest(generation=1))
        assert health(channel, name) == SERVING
        [probe] = random_units(np.random.default_rng(5), 1)
        request = index_pb2.IndexServiceSearchRequest(generation=1, encoder_id=ENCODER_ID)
        request.queries.add(embedding=pack(probe), fetch_k=3)
        assert len(stub.Search(request).hits[0].dense.item_ids) == 3
        assert started.poll() is None


def failed_start(home, *options, environment=None):
    done = subprocess.run(
        command(home, *options),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.splitlines()[-1]


def test_a_damaged_promoted_generation_ends_the_start_with_a_sentence(home):
    write_active(str(home / "generations"), Active().promoted(1, "promote", ""))
    path = home / "generations" / "000001" / "shard-0000" / "graph.faiss"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    code, last = failed_start(home)
    assert (code, last.split(";")[0]) == (1, f"error: {path}: its SHA-256 is not the manifest's")


def test_a_shard_that_the_promoted_generation_does_not_have_ends_the_start(home):
    write_active(str(home / "generations"), Active().promoted(1, "promote", ""))
    code, last = failed_start(home, "--shard", "2")
    assert code == 1
    assert "cut into 2 shards, 0..1; this is shard 2" in last


def test_bad_settings_end_the_start_with_a_sentence(home):
    code, last = failed_start(home, environment={"VITRINE_INDEX_SEARCH_THREADS": "0"})
    assert code == 1
    assert "VITRINE_INDEX_SEARCH_THREADS" in last


def test_a_port_in_use_ends_the_start_with_a_sentence(home):
    with process(home) as (announced, _):
        code, last = failed_start(home, "--port", announced["address"].rsplit(":")[-1])
    assert code == 1
    assert "cannot listen on 127.0.0.1:" in last
    assert "Address already in use" in last
