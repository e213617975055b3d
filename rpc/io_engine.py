"""Has gRPC read its sockets itself; imported by services before anything of grpc.

gRPC's event engine gives what comes from a socket to threads of its own, and those to the thread
that tells asyncio: more changes of thread for each message. The engine that it replaced reads on
the thread that tells asyncio. gRPC chooses by an environment variable, when it is first imported;
one that is set already is left alone. See docs/adr/0019-grpc-reads-its-sockets-itself.md.
"""

import os

EXPERIMENTS = ",".join(
    f"-{name}"
    for name in (
        "event_engine_client",
        "event_engine_listener",
        "event_engine_for_all_other_endpoints",
        "event_engine_fork",
    )
)
os.environ.setdefault("GRPC_EXPERIMENTS", EXPERIMENTS)
