"""A torch module of token ids as an ONNX graph, its attention fused where it can be."""

import logging
from collections.abc import Sequence
from typing import Any

import torch

from rpc.terminal import CommandError
from training.fused_attention import fused_attention, plain_attention


def trace(
    path: torch.nn.Module, backbone: Any, inputs: Sequence[str], *, fused: bool = True
) -> Any:
    """Return the ONNX ModelProto of a module that takes token ids and gives one tensor.

    Args:
        path: what is traced; its parameters are called as `inputs`, int64 of shape (batch, seq).
        backbone: the transformers model inside it.
        inputs: input_ids, attention_mask, and others in the order of the parameters.
        fused: each attention becomes one node where it can (`training.fused_attention`).

    Raises:
        CommandError: it cannot be traced.
    """
    ids = torch.tensor([[1, 2, 3, 4, 5], [2, 3, 4, 5, 6]], dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, 3:] = 0
    others = [torch.zeros_like(ids) for _ in inputs[2:]]
    # Set here: importing torch resets it.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    try:
        with fused_attention(backbone) if fused else plain_attention(backbone):
            program = torch.onnx.export(
                path.eval(),
                (ids, mask, *others),
                input_names=list(inputs),
                # The exporter names values after modules: a plain name could be defined twice.
                output_names=["vitrine_output"],
                opset_version=20,
                dynamo=True,
                optimize=True,
                dynamic_shapes=dict.fromkeys(inputs, dynamic),
                verbose=False,
            )
    except Exception as exc:  # each step of the exporter has errors of its own
        reason = str(exc.__cause__ or exc).strip().splitlines()
        raise CommandError(
            f"{type(backbone).__name__} cannot be exported: {' '.join(reason[:2])}; give a model "
            "of another architecture"
        ) from exc
    assert program is not None
    return program.model_proto
