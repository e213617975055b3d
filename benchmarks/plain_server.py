"""A gRPC server as grpcio's documentation sets one up, with its stock health service: a ruler.

Prints its port, serves until its standard input ends.

    python -m benchmarks.plain_server
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1._async import HealthServicer


@contextmanager
def plain_server() -> Iterator[str]:
    """Start the server in a process of its own; yield its address; stop it."""
    # Nothing of how our own services are started, the settings of gRPC's core included.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GRPC_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.plain_server"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield f"127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.stdin.close()
        process.wait(30)


async def serve() -> None:
    """Serve until standard input ends."""
    server = grpc.aio.server()
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(serve())
