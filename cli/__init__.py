"""The operator's `vitrine` command: talks gRPC, starts processes, imports no service."""

import os

# What gRPC says of its connections is no sentence for an operator; a value set already stays.
# gRPC reads it when it is first imported.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
