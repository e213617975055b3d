"""What `vitrine status` says of a process is what the process says of itself."""

import os
from concurrent.futures import ThreadPoolExecutor

import grpc
import psutil
import pytest
from rich.console import Console

from cli.processes import Process
from cli.status import HomeStatus, _describe
from cli.tables import status_table
from protos.vitrine.v1 import admin_pb2, admin_pb2_grpc


class Gateway(admin_pb2_grpc.AdminServiceServicer):
    """A gateway that says what it is told to."""

    def __init__(self, answer):
        self.answer = answer

    def DescribeCluster(self, request, context):
        return self.answer


@pytest.fixture
def described():
    """Return how a gateway process is that gives an answer."""
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")

    def describe(answer):
        admin_pb2_grpc.add_AdminServiceServicer_to_server(Gateway(answer), server)
        server.start()
        started_at = psutil.Process().create_time()
        address = f"127.0.0.1:{port}"
        process = Process("gateway", "gateway", None, os.getpid(), started_at, "log", address)
        return _describe(process, 3)

    yield describe
    server.stop(None)


def printed(status):
    console = Console(width=200)
    with console.capture() as capture:
        console.print(status_table(status))
    return capture.get()


def test_what_keeps_a_gateway_from_serving_is_shown(described):
    gateway = described(admin_pb2.DescribeClusterResponse(blocked_on="shard 2 [of 4] is loading"))
    assert (gateway.generation, gateway.generations) == (None, ())
    assert gateway.blocked_on == "shard 2 [of 4] is loading"
    table = printed(HomeStatus("home", True, 3, (gateway,)))
    assert "gateway: shard 2 [of 4] is loading" in table


def test_a_gateway_that_waits_for_nothing_says_nothing(described):
    gateway = described(admin_pb2.DescribeClusterResponse(generation=3, previous_generation=2))
    assert (gateway.generation, gateway.generations, gateway.blocked_on) == (3, (2, 3), "")
    assert "gateway:" not in printed(HomeStatus("home", True, 3, (gateway,)))
