"""The operator's `vitrine` command: talks gRPC, starts processes, imports no service."""
