"""What an embedding costs on the wire: little-endian float32 bytes against `repeated float`.

Packs and unpacks one 384-d query vector both ways through the protobuf runtime that the services
use, in one process and one run. `OpenVector` stands for the alternative: it is built at run time
with the fields that a contract with `repeated float` would have.

    python -m benchmarks.wire_vectors --out benchmarks/results/wire_vectors.json
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from benchmarks.report import machine
from protos.vitrine.v1 import index_pb2
from rpc.vectors import pack, unpack

DIM = 384
CALLS_A_ROUND = 2_000
ROUNDS = 15


def main() -> None:
    """Measure both forms, print a table, write the figures when asked to."""
    options = _parser().parse_args()
    figures = {"machine": machine(), "dim": DIM, **measure()}
    print(table(figures))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(figures, indent=2) + "\n")


def measure() -> dict[str, Any]:
    """Return microseconds and bytes of both forms, and their ratios; rounds are interleaved."""
    vector = np.random.default_rng(1).standard_normal(DIM).astype(np.float32)
    vector /= np.linalg.norm(vector)
    open_vector = open_vector_class()

    def pack_bytes() -> bytes:
        return bytes(index_pb2.ShardQuery(embedding=pack(vector)).SerializeToString())

    def pack_floats() -> bytes:
        return bytes(open_vector(values=vector.tolist()).SerializeToString())

    def unpack_bytes() -> Any:
        return unpack(index_pb2.ShardQuery.FromString(as_bytes).embedding, DIM)[0]

    def unpack_floats() -> Any:
        # The same guarantee as `unpack` gives: float32, finite.
        values = np.array(open_vector.FromString(as_floats).values, dtype=np.float32)
        assert np.isfinite(values).all()
        return values

    as_bytes, as_floats = pack_bytes(), pack_floats()
    assert np.array_equal(unpack_bytes(), vector)
    assert np.array_equal(unpack_floats(), vector)
    actions = (pack_bytes, pack_floats, unpack_bytes, unpack_floats)
    microseconds: dict[str, list[float]] = {action.__name__: [] for action in actions}
    for _ in range(ROUNDS):
        for action in actions:
            microseconds[action.__name__].append(_microseconds(action))
    medians = {name: statistics.median(values) for name, values in microseconds.items()}
    return {
        "median_us": {name: round(value, 3) for name, value in medians.items()},
        "message_bytes": {"bytes": len(as_bytes), "floats": len(as_floats)},
        "pack_ratio": round(medians["pack_floats"] / medians["pack_bytes"], 1),
        "unpack_ratio": round(medians["unpack_floats"] / medians["unpack_bytes"], 1),
    }


def open_vector_class() -> Any:
    """Return a message class with `repeated float values = 1` (packed, as proto3 has it)."""
    file = descriptor_pb2.FileDescriptorProto(
        name="benchmarks/open_vector.proto", package="vitrine.benchmarks", syntax="proto3"
    )
    field = file.message_type.add(name="OpenVector").field.add(name="values", number=1)
    field.type = descriptor_pb2.FieldDescriptorProto.TYPE_FLOAT
    field.label = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    descriptor = pool.FindMessageTypeByName("vitrine.benchmarks.OpenVector")
    return message_factory.GetMessageClass(descriptor)


def table(figures: dict[str, Any]) -> str:
    """Return the figures as a table for people."""
    us, size = figures["median_us"], figures["message_bytes"]
    rows = [
        f"one {figures['dim']}-d vector    bytes    repeated float    ratio",
        f"pack, us          {us['pack_bytes']:9.2f} {us['pack_floats']:13.2f}"
        f" {figures['pack_ratio']:12.1f}",
        f"unpack, us        {us['unpack_bytes']:9.2f} {us['unpack_floats']:13.2f}"
        f" {figures['unpack_ratio']:12.1f}",
        f"message, bytes    {size['bytes']:9d} {size['floats']:13d}",
    ]
    return "\n".join(rows)


def _microseconds(action: Callable[[], Any]) -> float:
    started_s = time.perf_counter()
    for _ in range(CALLS_A_ROUND):
        action()
    return (time.perf_counter() - started_s) / CALLS_A_ROUND * 1e6


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="file to write the figures to, as JSON")
    return parser


if __name__ == "__main__":
    main()
