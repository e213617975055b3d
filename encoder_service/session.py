"""ONNX Runtime with every option that matters written out."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from encoder_service.bundle import EncoderBundle
from encoder_service.layout import Layout, spread_from, usable_cores
from encoder_service.tokenizer import Tokens
from rpc.errors import DataLoss

Values = NDArray[np.float32]

_IDS, _MASK, _TYPES = "input_ids", "attention_mask", "token_type_ids"
_SPIN_US = 50
# A LayerNormalization fused with the sum before it takes almost three times as long as the two
# apart (training/LOG.md, "MPNet's attention in one node").
SLOW_FUSIONS = ("SkipLayerNormFusion",)
_INT64 = "tensor(int64)"


class Session:
    """One loaded graph; `run` may run on several threads at once.

    The weights are in memory once, whatever the number of threads, which also share them in the
    processor's cache. A layout that gives a lone text every core has them a second time.

    Attributes:
        spread_from: tokens from which a lone text gets every core; infinite where none does.
    """

    def __init__(
        self,
        bundle: EncoderBundle,
        *,
        output: str,
        width: int | None,
        layout: Layout = Layout.THROUGHPUT,
    ) -> None:
        """Load the graph.

        Args:
            bundle: whose graph.
            output: the name of what it makes.
            width: values a text, None for a single number.
            layout: what a lone text is run with.

        Raises:
            DataLoss: it cannot be loaded, or is not the graph that encoder.json describes.
        """
        self._output = [output]
        self._narrow = _open(bundle.model_path, threads=1)
        _require_shape(bundle, self._narrow, output, width)
        cores = usable_cores()
        spread = layout is not Layout.THROUGHPUT and cores > 1
        self._wide = _open(bundle.model_path, threads=cores) if spread else None
        self._has_types = any(value.name == _TYPES for value in self._narrow.get_inputs())
        self.spread_from = 0.0 if spread else float("inf")

    def run(self, tokens: Tokens, *, alone: bool = False) -> Any:
        """Return what the graph makes of one text: a float32 array of shape (width,), or a float32.

        One text a run at its true length: activations get one scale for the whole run, so a
        neighbour or padding in the same run would change this text's values.

        Args:
            tokens: of one text or pair.
            alone: whether it may have every core, where the layout provides for that.
        """
        session = self._narrow
        if alone and self._wide is not None and tokens.ids.size >= self.spread_from:
            session = self._wide
        return self._run_in(session, tokens)

    def measure_spread(self, max_tokens: int) -> None:
        """Give lone texts every core only where that is faster here; call it while nothing runs."""
        if self._wide is None:
            return
        narrow, wide = (
            lambda tokens, session=session: self._run_in(session, _any_text(tokens))
            for session in (self._narrow, self._wide)
        )
        self.spread_from = spread_from(narrow, wide, max_tokens)
        if math.isinf(self.spread_from):
            self._wide = None

    def warm(self, lengths: Sequence[int]) -> None:
        """Run once at each length on every core layout there is, longest first.

        The longest text takes as much memory as any will, so memory stays flat from here on.
        """
        for length in sorted(lengths, reverse=True):
            tokens = _any_text(length)
            self.run(tokens)
            if self._wide is not None:
                self.run(tokens, alone=True)

    def _run_in(self, session: Any, tokens: Tokens) -> Any:
        feed = {_IDS: tokens.ids, _MASK: np.ones_like(tokens.ids)}
        if self._has_types:
            feed[_TYPES] = np.zeros_like(tokens.ids) if tokens.types is None else tokens.types
        return session.run(self._output, feed)[0][0]


def _any_text(length: int) -> Tokens:
    return Tokens(np.ones((1, length), dtype=np.int64), truncated=False)


def _open(path: Path, threads: int) -> Any:
    try:
        return onnxruntime.InferenceSession(
            str(path),
            _options(threads),
            providers=["CPUExecutionProvider"],
            disabled_optimizers=SLOW_FUSIONS,
        )
    except Exception as exc:  # onnxruntime's errors share no base of their own
        raise DataLoss(str(path), f"cannot be loaded: {str(exc).splitlines()[0]}") from exc


def _options(threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that share a text wait for each other within it, and spin for as long as that takes;
    # longer spinning takes the core that another text, or the caller, needs
    # (benchmarks/results/encoder_layout_minilm.json).
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(_SPIN_US))
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Patterns are kept for each new length and never given back. An arena has one lock for all
    # threads that run the session, and every node takes it twice; malloc has a heap for each
    # (benchmarks/results/encoder_layout_minilm_vnni.json).
    options.enable_mem_pattern = False
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    return options


def _require_shape(bundle: EncoderBundle, session: Any, output: str, width: int | None) -> None:
    """Refuse a graph whose inputs or outputs are not those of its bundle's kind."""
    path = str(bundle.model_path)
    inputs: Mapping[str, str] = {value.name: value.type for value in session.get_inputs()}
    outputs = {value.name: value.shape for value in session.get_outputs()}
    known = inputs.keys() - {_TYPES} == {_IDS, _MASK}
    if not known or set(inputs.values()) != {_INT64} or output not in outputs:
        raise DataLoss(
            path,
            f"has inputs {sorted(inputs)} and outputs {sorted(outputs)}: not a {bundle.kind}; "
            f"needed are {_IDS} and {_MASK} of int64, and {output}",
        )
    last = outputs[output][-1] if width is not None else None
    if isinstance(last, int) and last != width:
        raise DataLoss(path, f"makes {last} values, {width} are recorded")
