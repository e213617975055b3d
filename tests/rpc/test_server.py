"""A server's life over real sockets: ready, serving, draining, stopped."""

import asyncio
import os
import signal
import socket

import grpc
import orjson
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from protos.vitrine.v1 import encoder_pb2
from rpc.server import PortInUse, ServiceServer
from rpc.settings import ServiceSettings
from rpc.telemetry import RpcMetrics
from tests.rpc.conftest import SERVICES, error_of, eventually, running

States = health_pb2.HealthCheckResponse


async def health_of(server, service="") -> int:
    stub = health_pb2_grpc.HealthStub(server.channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status


async def test_health_is_not_serving_until_ready_and_watchers_hear_of_it(tmp_path):
    async with running(tmp_path, ready_at_once=False) as server:
        assert await health_of(server) == States.NOT_SERVING
        assert (await server.get("/healthz"))[0] == 503
        watch = health_pb2_grpc.HealthStub(server.channel).Watch(
            health_pb2.HealthCheckRequest(service=SERVICES[0])
        )
        assert (await watch.read()).status == States.NOT_SERVING
        server.is_ready.set()
        assert (await watch.read()).status == States.SERVING
        assert await health_of(server) == States.SERVING
        assert (await server.get("/healthz"))[0] == 200
        watch.cancel()


async def test_metrics_and_pages_over_http(server):
    await server.encode()
    status, metrics = await server.get("/metrics")
    assert status == 200
    method = "/vitrine.v1.EncoderService/Encode"
    assert f'vitrine_rpc_calls_total{{code="OK",method="{method}"}} 1.0' in metrics
    assert "vitrine_serving 1.0" in metrics
    assert 'vitrine_service_info{role="test",version="1.2.3"} 1.0' in metrics

    status, page = await server.get("/")
    assert status == 200
    assert "Vitrine test" in page
    assert "&lt;b&gt;bold&lt;/b&gt;" in page, "values are text, not markup"

    status, health = await server.get("/healthz")
    assert orjson.loads(health) == {"role": "test", "serving": True, "note": "<b>bold</b>"}
    assert (await server.get("/nothing"))[0] == 404


async def test_reflection_lists_the_services_and_their_error_details(server):
    stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
    request = reflection_pb2.ServerReflectionRequest
    call = stub.ServerReflectionInfo(
        iter([request(list_services=""), request(file_containing_symbol="google.rpc.BadRequest")])
    )
    answers = [answer async for answer in call]
    names = {service.name for service in answers[0].list_services_response.service}
    assert {*SERVICES, "grpc.health.v1.Health"} <= names
    file = FileDescriptorProto.FromString(
        answers[1].file_descriptor_response.file_descriptor_proto[0]
    )
    assert file.name == "google/rpc/error_details.proto"


async def test_reflection_can_be_turned_off(tmp_path):
    async with running(tmp_path, reflection=False) as server:
        stub = reflection_pb2_grpc.ServerReflectionStub(server.channel)
        call = stub.ServerReflectionInfo(
            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(call.read(), 10)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_signal_lets_calls_in_flight_end(tmp_path, number):
    async with running(tmp_path) as server:
        await eventually(lambda: server.server.serving)
        in_flight = asyncio.ensure_future(server.encode("wait"))
        await server.service.waiting.wait()
        os.kill(os.getpid(), number)
        await eventually(lambda: not server.server.serving)
        server.service.go_on.set()
        assert (await in_flight).encoder_id
        await asyncio.wait_for(server.running, 10)
        assert server.count("/vitrine.v1.EncoderService/Encode", "OK") == 1


async def test_health_says_not_serving_while_draining(tmp_path):
    async with running(tmp_path, drain_delay_s=0.5) as server:
        await eventually(lambda: server.server.serving)
        watch = health_pb2_grpc.HealthStub(server.channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == States.SERVING
        os.kill(os.getpid(), signal.SIGTERM)
        assert (await watch.read()).status == States.NOT_SERVING
        assert (await server.encode()).encoder_id, "calls are served during the drain delay"


async def test_a_watcher_of_health_hears_the_end_and_does_not_hold_it_up(tmp_path):
    async with running(tmp_path, drain_timeout_s=60) as server:
        await eventually(lambda: server.server.serving)
        stub = health_pb2_grpc.HealthStub(server.channel)
        watches = [
            stub.Watch(health_pb2.HealthCheckRequest(service=name)) for name in ("", SERVICES[0])
        ]
        for watch in watches:
            assert (await watch.read()).status == States.SERVING
        await server.terminate()
        for watch in watches:
            assert (await watch.read()).status == States.NOT_SERVING
            assert await watch.read() is grpc.aio.EOF
            assert await watch.code() is grpc.StatusCode.OK


async def test_a_service_that_does_not_exist_has_no_health(server):
    stub = health_pb2_grpc.HealthStub(server.channel)
    request = health_pb2.HealthCheckRequest(service="nobody")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(request)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    watch = stub.Watch(request)
    assert (await watch.read()).status == States.SERVICE_UNKNOWN
    watch.cancel()


async def test_calls_that_outlast_the_drain_are_cut(tmp_path):
    async with running(tmp_path, drain_timeout_s=0.2) as server:
        in_flight = asyncio.ensure_future(server.encode("wait"))
        await server.service.waiting.wait()
        await server.terminate()
        with pytest.raises(grpc.aio.AioRpcError):
            await in_flight
        assert server.service.cancelled.is_set()


async def test_a_stop_signal_before_readiness_ends_the_server(tmp_path):
    async with running(tmp_path, ready_at_once=False) as server:
        await server.terminate()
        assert not server.server.serving


async def test_an_error_while_becoming_ready_ends_the_server(tmp_path):
    async def describe():
        return {}

    async def ready():
        raise ValueError("no bundle")

    server = ServiceServer("test", ServiceSettings(), RpcMetrics("test", "1"), describe)
    with pytest.raises(ValueError, match="no bundle"):
        await asyncio.wait_for(server.run((), ready), 10)


@pytest.mark.parametrize("which", ["port", "http_port"])
async def test_a_port_in_use_is_told_with_its_number(tmp_path, server, which):
    address = server.address if which == "port" else server.http_address
    port = int(address.split(":")[1])
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(PortInUse, match=f"cannot listen on 127.0.0.1:{port}: Address already in"):
        async with running(other, **{which: port}):
            pass


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
@pytest.mark.parametrize("host", ["::1", "[::1]", "::"])
async def test_an_ipv6_host_is_bound_and_announced_in_brackets(tmp_path, host):
    async with running(tmp_path, host=host) as server:
        shown = f"[{host.strip('[]')}]:"
        assert server.address.startswith(shown)
        assert server.http_address.startswith(shown)
        await server.encode()
        assert (await server.get("/metrics"))[0] == 200


@pytest.mark.parametrize("which", ["port", "http_port"])
async def test_an_ipv6_port_in_use_is_told_in_brackets(tmp_path, which):
    async with running(tmp_path, host="::1") as server:
        address = server.address if which == "port" else server.http_address
        port = int(address.rpartition(":")[2])
        other = tmp_path / "other"
        other.mkdir()
        with pytest.raises(
            PortInUse, match=rf"cannot listen on \[::1\]:{port}: Address already in"
        ):
            async with running(other, host="::1", **{which: port}):
                pass


async def test_messages_above_the_limit_are_refused(tmp_path):
    async with running(tmp_path, message_bytes_max=64 * 1024) as server:
        request = encoder_pb2.EncodeRequest(texts=["x" * 70_000])
        error = await error_of(server.encoder.Encode(request))
        assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_the_announcement_names_role_pid_and_addresses(tmp_path, server):
    announcement = orjson.loads((tmp_path / "announcement.json").read_bytes())
    assert announcement == {
        "role": "test",
        "pid": os.getpid(),
        "address": server.address,
        "http_address": server.http_address,
    }
