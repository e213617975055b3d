"""Run an ONNX encoder to measure it: one text a run, one thread."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


def open_session(model: bytes | str) -> Any:
    """Return a single-threaded CPU session for a serialized model or a path to one."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def token_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[Ids]:
    """Return each text's token ids, int64 of shape (1, seq)."""
    return [np.array([entry.ids], dtype=np.int64) for entry in tokenizer.encode_batch(list(texts))]


def embed_each(session: Any, texts: Sequence[Ids]) -> Floats:
    """Return vectors of shape (n, dim), each text run alone at its true length."""
    return np.concatenate([_embed(session, ids) for ids in texts])


def cosines(left: Floats, right: Floats) -> NDArray[np.float64]:
    """Return the cosine of each pair of rows; both sides have unit rows.

    >>> cosines(np.eye(2, dtype=np.float32), np.ones((2, 2), np.float32) / 2).tolist()
    [0.5, 0.5]
    """
    products = left.astype(np.float64) * right.astype(np.float64)
    summed: NDArray[np.float64] = products.sum(axis=1)
    return summed


def median_us(session: Any, texts: Sequence[Ids], rounds: int) -> float:
    """Return the least of `rounds` medians of one run's microseconds, texts in turn.

    The least, because whatever else the machine does can only add.
    """
    embed_each(session, texts)
    medians_s = []
    for _ in range(rounds):
        spent_s = []
        for ids in texts:
            started_s = time.perf_counter()
            _embed(session, ids)
            spent_s.append(time.perf_counter() - started_s)
        medians_s.append(float(np.median(spent_s)))
    return round(min(medians_s) * 1e6, 1)


def _embed(session: Any, ids: Ids) -> Floats:
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    vectors: Floats = session.run(["embedding"], feed)[0]
    return vectors
