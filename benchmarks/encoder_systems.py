"""The encoders that are compared: each turns texts into unit vectors, tokenization included.

Every one runs in a process of its own (`benchmarks.encoder_worker`), so that no thread pool spins
beside another's measurement. Libraries are imported where they are used: a worker may run in an
environment that has only its own.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


class System(Protocol):
    """An encoder under test."""

    threads: int
    note: str

    def encode(self, texts: Sequence[str]) -> Floats:
        """Return unit vectors of shape (n, dim)."""
        ...


class Absent(Exception):
    """What the system needs is not installed, or cannot be used here."""


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))


def open_system(kind: str, files: dict[str, str]) -> System:
    """Return a loaded system.

    Raises:
        Absent: a library is not installed.
    """
    try:
        system: System = _KINDS[kind](files)
    except ImportError as exc:
        raise Absent(f"not installed: pip install 'vitrine[bench]' ({exc})") from exc
    return system


class Torch:
    """sentence-transformers, PyTorch in full precision, as its documentation calls it."""

    def __init__(self, files: dict[str, str]) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(files["model"], device="cpu")
        self._model.max_seq_length = int(files["max_tokens"])
        self.threads = torch.get_num_threads()
        self.note = f"torch {torch.__version__}, its own choice of threads"

    def encode(self, texts: Sequence[str]) -> Floats:
        """Return unit vectors of shape (n, dim)."""
        found: Floats = self._model.encode(
            list(texts), batch_size=len(texts), normalize_embeddings=True, show_progress_bar=False
        )
        return found


class TorchOnnxBackend:
    """sentence-transformers with its ONNX backend, which optimum provides."""

    def __init__(self, files: dict[str, str]) -> None:
        try:
            import optimum.onnxruntime  # noqa: F401
        except ImportError as exc:
            raise Absent(_no_optimum(str(exc).splitlines()[0])) from exc
        from sentence_transformers import SentenceTransformer

        self._model = SentenceTransformer(
            files["model"],
            device="cpu",
            backend="onnx",
            model_kwargs={"provider": "CPUExecutionProvider", "export": True},
        )
        self._model.max_seq_length = int(files["max_tokens"])
        self.threads = cores()
        self.note = f"onnxruntime {version('onnxruntime')}, transformers {version('transformers')}"

    def encode(self, texts: Sequence[str]) -> Floats:
        """Return unit vectors of shape (n, dim)."""
        found: Floats = self._model.encode(
            list(texts), batch_size=len(texts), normalize_embeddings=True, show_progress_bar=False
        )
        return found


class Onnx:
    """An ONNX graph in one onnxruntime session; a batch is padded and run at once.

    With one thread there is no pool to spin; with more, onnxruntime's default spinning stays on.
    """

    def __init__(self, files: dict[str, str], threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            files["graph"], options, providers=["CPUExecutionProvider"]
        )
        self._tokenizer = padding_tokenizer(files["tokenizer"])
        self.threads = threads
        self.note = (
            f"onnxruntime {onnxruntime.__version__}, {'no pool' if threads == 1 else 'spinning on'}"
        )

    def encode(self, texts: Sequence[str]) -> Floats:
        """Return unit vectors of shape (n, dim)."""
        ids, mask = padded(self._tokenizer, texts)
        found: Floats = self._session.run(
            ["embedding"], {"input_ids": ids, "attention_mask": mask}
        )[0]
        return found


class OpenVino:
    """An OpenVINO model, compiled as its guides advise for latency; what is not INT8 is FP32."""

    def __init__(self, files: dict[str, str]) -> None:
        import openvino

        core = openvino.Core()
        compiled = core.compile_model(
            files["graph"],
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": "f32",
                "INFERENCE_NUM_THREADS": cores(),
                "CACHE_DIR": str(Path(files["graph"]).parent / "openvino-cache"),
            },
        )
        self._request = compiled.create_infer_request()
        self._tokenizer = padding_tokenizer(files["tokenizer"])
        self.threads = cores()
        self.note = f"openvino {openvino.__version__.split('-')[0]}, latency hint"

    def encode(self, texts: Sequence[str]) -> Floats:
        """Return unit vectors of shape (n, dim)."""
        ids, mask = padded(self._tokenizer, texts)
        self._request.infer({"input_ids": ids, "attention_mask": mask}, share_inputs=True)
        found: Floats = self._request.get_output_tensor(0).data.copy()
        return found


class Own:
    """The bundle as encoder_service runs it: several texts side by side, one core each.

    A lone text gets one core as well or, as shipped, every core from that length on for which this
    is faster here, measured while it loads.
    """

    def __init__(self, files: dict[str, str], *, one_core: bool = False) -> None:
        from encoder_service.bundle import load_bundle
        from encoder_service.encoder import load_encoder
        from encoder_service.layout import Layout

        layout = Layout.THROUGHPUT if one_core else Layout.AUTO
        self._encoder = load_encoder(load_bundle(Path(files["bundle"])), layout)
        self._encoder.warm()
        self.threads = 1 if one_core else cores()
        self._pool = ThreadPoolExecutor(max_workers=self.threads)
        spread_from = self._encoder.session.spread_from
        self.note = (
            f"a lone text of {spread_from:.0f} or more tokens on every core, any other on one"
            if spread_from < float("inf")
            else "every text on one core"
        )

    def encode(self, texts: Sequence[str]) -> Floats:
        """Return unit vectors of shape (n, dim)."""
        if len(texts) == 1:
            return self._encoder.encode(texts)
        return np.stack(list(self._pool.map(self._encoder.run, self._encoder.tokenize(texts))))


class Grpc:
    """A running encoder service, asked from this process with one call a batch."""

    def __init__(self, files: dict[str, str]) -> None:
        import grpc

        from protos.vitrine.v1 import encoder_pb2, encoder_pb2_grpc, types_pb2

        self._encode = encoder_pb2_grpc.EncoderServiceStub(
            grpc.insecure_channel(files["address"])
        ).Encode
        self._request = encoder_pb2.EncodeRequest
        self._kind = types_pb2.TEXT_KIND_QUERY
        self.threads = cores()
        self.note = "one blocking caller; the service's default settings"

    def encode(self, texts: Sequence[str]) -> Floats:
        """Return unit vectors of shape (n, dim)."""
        answer = self._encode(self._request(texts=texts, kind=self._kind))
        return np.frombuffer(answer.embeddings, dtype="<f4").reshape(len(texts), answer.dim)


def padding_tokenizer(path: str) -> Any:
    """Return a tokenizer that pads a batch to its longest text."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(path)
    pad = next(t for t in ("[PAD]", "<pad>") if tokenizer.token_to_id(t) is not None)
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id(pad), pad_token=pad)
    return tokenizer


def padded(tokenizer: Any, texts: Sequence[str]) -> tuple[Ids, Ids]:
    """Return ids and attention mask, int64 of shape (n, seq)."""
    entries = tokenizer.encode_batch(list(texts))
    ids = np.array([entry.ids for entry in entries], dtype=np.int64)
    mask = np.array([entry.attention_mask for entry in entries], dtype=np.int64)
    return ids, mask


def _no_optimum(reason: str) -> str:
    return (
        "needs optimum-onnx, which allows transformers below 4.58 only; give --peer-python an "
        f"environment that has both ({reason})"
    )


_KINDS: dict[str, Any] = {
    "torch": Torch,
    "torch_onnx": TorchOnnxBackend,
    "onnx_1": lambda files: Onnx(files, 1),
    "onnx_all": lambda files: Onnx(files, cores()),
    "openvino": OpenVino,
    "own": Own,
    "own_1": lambda files: Own(files, one_core=True),
    "grpc": Grpc,
}
