"""The container health check, against a real server."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from rpc.health_probe import main

SERVICE = "vitrine.v1.IndexService"
States = health_pb2.HealthCheckResponse


@dataclass(frozen=True)
class HealthServer:
    address: str
    health: health.HealthServicer


@pytest.fixture
def server() -> Iterator[HealthServer]:
    servicer = health.HealthServicer()
    grpc_server = grpc.server(ThreadPoolExecutor(max_workers=2))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, grpc_server)
    port = grpc_server.add_insecure_port("127.0.0.1:0")
    grpc_server.start()
    yield HealthServer(f"127.0.0.1:{port}", servicer)
    grpc_server.stop(grace=None).wait()


def test_a_serving_server_exits_zero_and_says_nothing(server, capsys):
    server.health.set("", States.SERVING)
    assert main([server.address]) == 0
    assert capsys.readouterr().err == ""


def test_a_loading_server_exits_one_with_its_state(server, capsys):
    server.health.set("", States.NOT_SERVING)
    assert main([server.address]) == 1
    assert capsys.readouterr().err == f"error: {server.address}: health says NOT_SERVING\n"


def test_one_service_is_asked_about_by_name(server):
    server.health.set("", States.NOT_SERVING)
    server.health.set(SERVICE, States.SERVING)
    assert main([server.address, "--service", SERVICE]) == 0


def test_an_unknown_service_exits_one(server, capsys):
    assert main([server.address, "--service", "vitrine.v1.Nothing"]) == 1
    assert "NOT_FOUND" in capsys.readouterr().err


def test_nobody_listening_exits_one_within_the_timeout(server, capsys):
    nobody = "127.0.0.1:1"
    assert main([nobody, "--timeout-s", "0.5"]) == 1
    message = capsys.readouterr().err
    assert message.startswith(f"error: {nobody}: ")
    assert "UNAVAILABLE" in message or "DEADLINE_EXCEEDED" in message


def test_the_module_runs_as_a_container_would_run_it(server):
    server.health.set("", States.SERVING)
    command = [sys.executable, "-m", "rpc.health_probe", server.address]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
