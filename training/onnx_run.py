"""Run an ONNX encoder to measure it: one text or pair a run, one thread a run."""

import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

Floats = NDArray[np.float32]
Text = str | tuple[str, str]
Feed = Mapping[str, NDArray[np.int64]]

IDS, MASK, TYPES = "input_ids", "attention_mask", "token_type_ids"
# As in encoder_service.session, so that what is measured is what is served.
SLOW_FUSIONS = ("SkipLayerNormFusion",)


def open_session(model: bytes | str) -> Any:
    """Return a single-threaded CPU session for a serialized model or a path to one."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False
    # It has one lock, and runs go side by side.
    options.enable_cpu_mem_arena = False
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model, options, providers=["CPUExecutionProvider"], disabled_optimizers=SLOW_FUSIONS
    )


def feeds_of(tokenizer: Tokenizer, texts: Sequence[Text], *, types: bool = False) -> list[Feed]:
    """Return what a graph takes for each text or pair: int64 arrays of shape (1, seq).

    Args:
        tokenizer: cuts texts, and does not pad.
        texts: texts, or pairs of a query and a text.
        types: whether the graph takes token types.
    """
    return [
        {
            IDS: np.array([entry.ids], dtype=np.int64),
            MASK: np.ones((1, len(entry.ids)), dtype=np.int64),
            **({TYPES: np.array([entry.type_ids], dtype=np.int64)} if types else {}),
        }
        for entry in tokenizer.encode_batch(list(texts))
    ]


def cut(feed: Feed, num_tokens: int) -> Feed:
    """Return a feed's first tokens."""
    return {name: values[:, :num_tokens] for name, values in feed.items()}


def run_each(session: Any, feeds: Sequence[Feed]) -> Floats:
    """Return embeddings of shape (n, dim), or scores of shape (n, 1), each feed run alone.

    Runs go side by side, one a core; what a run gives does not depend on the others.
    """
    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        return np.stack(list(pool.map(lambda feed: _run(session, feed), feeds)))


def median_us(session: Any, feeds: Sequence[Feed], rounds: int) -> float:
    """Return the least of `rounds` medians of one run's microseconds, feeds in turn.

    The least, because whatever else the machine does can only add.
    """
    run_each(session, feeds)
    medians_s = []
    for _ in range(rounds):
        spent_s = []
        for feed in feeds:
            started_s = time.perf_counter()
            _run(session, feed)
            spent_s.append(time.perf_counter() - started_s)
        medians_s.append(float(np.median(spent_s)))
    return round(min(medians_s) * 1e6, 1)


def _run(session: Any, feed: Feed) -> Floats:
    made: Floats = session.run(None, feed)[0]
    return made.reshape(-1)
