"""Services run on the engine of gRPC that is chosen for them, and gRPC knows that choice."""

import os
import subprocess
import sys

import pytest

STARTED = """
import asyncio
import {module}
import grpc

async def main():
    server = grpc.aio.server()
    address = f"127.0.0.1:{{server.add_insecure_port('127.0.0.1:0')}}"
    await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            await channel.unary_unary("/a.Service/Method")(b"")
        except grpc.aio.AioRpcError as exc:
            print(exc.code().name)
    await server.stop(None)

asyncio.run(main())
"""


def started(module: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", STARTED.format(module=module)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


def test_grpc_knows_every_name_in_the_choice():
    run = started("rpc.io_engine")
    assert run.stdout.strip() == "UNIMPLEMENTED"
    assert run.stderr == ""


def test_a_name_that_grpc_does_not_know_would_be_told():
    run = started("rpc.io_engine", GRPC_EXPERIMENTS="-no_such_experiment")
    assert "Unknown experiment: no_such_experiment" in run.stderr


@pytest.mark.parametrize("service", ["gateway", "index_service", "encoder_service"])
def test_services_choose_before_they_import_grpc(service: str):
    code = (
        "import sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'grpc':\n"
        "            assert 'rpc.io_engine' in sys.modules, 'grpc comes first'\n"
        "            print('watched')\n"
        "sys.meta_path.insert(0, Watch())\n"
        f"import {service}.__main__\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["watched"]
