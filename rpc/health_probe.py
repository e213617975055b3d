"""Ask a server's gRPC health service once; exit 0 when it says SERVING, else 1 with the reason.

For container health checks: `python -m rpc.health_probe 127.0.0.1:7700`. It starts every few
seconds, so it parses its arguments with the standard library instead of loading a CLI framework.
"""

import argparse
import sys
from collections.abc import Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def main(arguments: Sequence[str] | None = None) -> int:
    """Probe the server that the command line names; return the exit status."""
    options = _parser().parse_args(arguments)
    reason = why_not_serving(options.address, options.service, options.timeout_s)
    if reason:
        sys.stderr.write(f"error: {options.address}: {reason}\n")
    return 1 if reason else 0


def why_not_serving(address: str, service: str, timeout_s: float) -> str:
    """Return why a service does not answer SERVING within `timeout_s`; empty when it does.

    Args:
        address: "host:port" of the gRPC server.
        service: full name of one service; empty asks about the server as a whole.
        timeout_s: longest wait for connection and answer together, in seconds.
    """
    # A proxy in the environment must not stand between a container and itself.
    with grpc.insecure_channel(address, options=(("grpc.enable_http_proxy", 0),)) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=timeout_s
            )
        except grpc.RpcError as exc:
            return f"{exc.code().name}: {exc.details()}"
    states = health_pb2.HealthCheckResponse
    name = states.ServingStatus.Name(answer.status)
    return "" if answer.status == states.SERVING else f"health says {name}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rpc.health_probe", description=__doc__)
    parser.add_argument("address", help="host:port of the gRPC server")
    parser.add_argument("--service", default="", help="full service name; default: the server")
    parser.add_argument("--timeout-s", type=float, default=3.0, help="seconds to wait")
    return parser


if __name__ == "__main__":
    sys.exit(main())
