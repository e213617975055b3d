"""The encoders that are compared: how each is made, and how it is run."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import encoder_peers
from benchmarks.encoder_systems import Absent
from benchmarks.encoder_texts import calibration_texts
from benchmarks.encoder_worker import Worker
from training.model_source import find_model

FULL = "onnx_fp32_1"  # the system that full precision is taken from


@dataclass(frozen=True, slots=True)
class Entry:
    """A system to measure: what it is called, how it runs, and the file that its vectors depend on.

    Attributes:
        key: its name in the results.
        label: its name for people.
        kind: which class of encoder_systems runs it.
        files: what that class reads.
        model: the file to hash and weigh; made by `make` unless it is there.
        make: writes that file; raises ImportError when a library is missing.
    """

    key: str
    label: str
    kind: str
    files: dict[str, str]
    model: Path
    make: Callable[[Path], None] | None = None


def entries_of(options: argparse.Namespace, work: Path) -> list[Entry]:
    """Return the systems, none of them made or loaded yet."""
    graph = work / "fp32.onnx"
    if not graph.exists():
        encoder_peers.usual_graph(options.model, graph)
    tokenizer = options.bundle / "tokenizer.json"
    tokens = json.loads((options.bundle / "encoder.json").read_text())["max_tokens"]
    torch = {"model": find_model(options.model).location, "max_tokens": str(tokens)}
    texts = calibration_texts(encoder_peers.NUM_CALIBRATION_TEXTS)

    def files(path: Path) -> dict[str, str]:
        return {"graph": str(path), "tokenizer": str(tokenizer)}

    def openvino_int8(*, overflow_fix: bool) -> Callable[[Path], None]:
        return lambda out: encoder_peers.openvino_int8(
            work / "openvino.xml", tokenizer, texts, out, overflow_fix=overflow_fix
        )

    def naive(*, per_channel: bool) -> Callable[[Path], None]:
        return lambda out: encoder_peers.naive_int8(graph, out, per_channel=per_channel)

    bundle, own = {"bundle": str(options.bundle)}, options.bundle / "model.onnx"
    dynamic, channels = work / "naive.onnx", work / "naive-per-channel.onnx"
    vino, vino8, vino8fix = (work / f"openvino{end}.xml" for end in ("", "-int8", "-int8-fix"))
    found = [
        Entry("torch", "sentence-transformers, torch FP32", "torch", torch, graph),
        Entry("torch_onnx", "sentence-transformers, ONNX backend", "torch_onnx", torch, graph),
        Entry("onnx_fp32_1", "onnxruntime FP32, 1 thread", "onnx_1", files(graph), graph),
        Entry("onnx_fp32", "onnxruntime FP32, all cores", "onnx_all", files(graph), graph),
        Entry("naive_int8", "dynamic INT8, defaults", "onnx_all", files(dynamic), dynamic,
              naive(per_channel=False)),
        Entry("naive_int8_channels", "dynamic INT8, per channel", "onnx_all", files(channels),
              channels, naive(per_channel=True)),
        Entry("openvino_fp32", "OpenVINO FP32", "openvino", files(vino), vino,
              lambda out: encoder_peers.openvino_fp32(graph, out)),
        Entry("openvino_int8", "OpenVINO INT8, NNCF", "openvino", files(vino8), vino8,
              openvino_int8(overflow_fix=False)),
        Entry("openvino_int8_fix", "OpenVINO INT8, NNCF with overflow fix", "openvino",
              files(vino8fix), vino8fix, openvino_int8(overflow_fix=True)),
        Entry("own_1", "Vitrine, in process, 1 thread", "own_1", bundle, own),
        Entry("own", "Vitrine, in process", "own", bundle, own),
        Entry("own_grpc", "Vitrine, over gRPC", "grpc", {}, own),
    ]  # fmt: skip
    wanted = {FULL, "onnx_fp32", "own_1", "own", "own_grpc", *(options.systems or [])}
    return [entry for entry in found if options.systems is None or entry.key in wanted]


@contextmanager
def workers(
    options: argparse.Namespace, entries: list[Entry]
) -> Iterator[tuple[dict[str, Worker], dict[str, str]]]:
    """Start every system that can be had; yield them, and why the others cannot."""
    running: dict[str, Worker] = {}
    absent: dict[str, str] = {}
    try:
        for entry in entries:
            python = options.peer_python if entry.kind == "torch_onnx" else sys.executable
            try:
                if entry.make is not None and not entry.model.exists():
                    entry.make(entry.model)
                running[entry.key] = Worker(entry.kind, entry.files, python)
            except ImportError as exc:
                absent[entry.key] = f"not installed: pip install 'vitrine[bench]' ({exc})"
            except Absent as exc:
                absent[entry.key] = str(exc)
        yield running, absent
    finally:
        for worker in running.values():
            worker.close()
