"""ONNX Runtime with every option that matters written out."""

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from encoder_service.bundle import EncoderBundle
from rpc.errors import DataLoss

Ids = NDArray[np.int64]
Vector = NDArray[np.float32]

_INPUTS = {"input_ids", "attention_mask"}
_OUTPUT = "embedding"


class Session:
    """One loaded graph; `embed` may run on several threads at once, each on its own core.

    The weights are in memory once, whatever the number of threads, which also share them in the
    processor's cache.
    """

    def __init__(self, bundle: EncoderBundle) -> None:
        """Load the graph.

        Raises:
            DataLoss: it cannot be loaded, or is not the graph that encoder.json describes.
        """
        path = str(bundle.model_path)
        try:
            self._session = onnxruntime.InferenceSession(
                path, _options(), providers=["CPUExecutionProvider"]
            )
        except Exception as exc:  # onnxruntime's errors share no base of their own
            raise DataLoss(path, f"cannot be loaded: {str(exc).splitlines()[0]}") from exc
        self._require_shape(path, bundle)

    def embed(self, ids: Ids) -> Vector:
        """Return the unit vector of one text, float32 of shape (dim,).

        One text a run at its true length: activations get one scale for the whole run, so a
        neighbour or padding in the same run would change this text's vector.

        Args:
            ids: token ids, int64 of shape (1, seq).
        """
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        row: Vector = self._session.run([_OUTPUT], feed)[0][0]
        return row

    def _require_shape(self, path: str, bundle: EncoderBundle) -> None:
        inputs = {value.name for value in self._session.get_inputs()}
        outputs = {value.name: value.shape for value in self._session.get_outputs()}
        if inputs != _INPUTS or _OUTPUT not in outputs:
            raise DataLoss(
                path, f"has inputs {sorted(inputs)} and outputs {sorted(outputs)}: not an encoder"
            )
        if outputs[_OUTPUT][-1] not in (bundle.dim, None) and isinstance(outputs[_OUTPUT][-1], int):
            raise DataLoss(path, f"makes {outputs[_OUTPUT][-1]} values, {bundle.dim} are recorded")


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    # One core a text: texts run side by side instead, which wastes nothing on waiting.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Patterns are kept for each new length and never given back.
    options.enable_mem_pattern = False
    options.enable_cpu_mem_arena = True
    options.log_severity_level = 3
    return options
