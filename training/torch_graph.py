"""A torch module of token ids as an ONNX graph, its attention fused where it can be."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from rpc.terminal import CommandError

_FUSED_ATTENTION = "vitrine_fused"


def trace(path: torch.nn.Module, backbone: Any, inputs: Sequence[str]) -> Any:
    """Return the ONNX ModelProto of a module that takes token ids and gives one tensor.

    Each attention becomes one com.microsoft MultiHeadAttention node where the model looks its
    attention up.

    Args:
        path: what is traced; its parameters are called as `inputs`, int64 of shape (batch, seq).
        backbone: the transformers model inside it.
        inputs: input_ids, attention_mask, and others in the order of the parameters.

    Raises:
        CommandError: it cannot be traced.
    """
    ids = torch.tensor([[1, 2, 3, 4, 5], [2, 3, 4, 5, 6]], dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, 3:] = 0
    others = [torch.zeros_like(ids) for _ in inputs[2:]]
    attention = backbone.config._attn_implementation  # noqa: SLF001
    fused = _can_fuse(backbone)
    backbone.set_attn_implementation(_register_fused_attention() if fused else "eager")
    # Set here: importing torch resets it.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    try:
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
    finally:
        backbone.set_attn_implementation(attention)
    assert program is not None
    return program.model_proto


def _can_fuse(backbone: Any) -> bool:
    """Tell whether a model looks its attention up, and it is what the fused node does.

    There each token attends to every other, and each head has keys of its own.
    """
    interchangeable = getattr(type(backbone), "_supports_attention_backend", False)
    restricted = getattr(backbone.config, "is_decoder", False) or any(
        getattr(module, "is_causal", False)
        or getattr(module, "sliding_window", None)
        or getattr(module, "num_key_value_groups", 1) > 1
        for module in backbone.modules()
    )
    return bool(interchangeable) and not restricted


def _register_fused_attention() -> str:
    """Teach transformers an attention that exports as a single node; return its name."""
    AttentionInterface.register(_FUSED_ATTENTION, _fused_attention)
    AttentionMaskInterface.register(_FUSED_ATTENTION, _padding_mask)
    return _FUSED_ATTENTION


def _padding_mask(*_: Any, attention_mask: torch.Tensor | None = None, **__: Any) -> Any:
    """Hand the (batch, seq) mask through as it is: the fused node understands it."""
    return attention_mask


def _fused_attention(
    _module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend over tensors of shape (batch, heads, seq, head size)."""
    batch, heads, seq, size = query.shape
    rows = [part.transpose(1, 2).reshape(batch, -1, heads * size) for part in (query, key, value)]
    mask = None if attention_mask is None else attention_mask.to(torch.int32)
    out = torch.onnx.ops.symbolic(
        "com.microsoft::MultiHeadAttention",
        [*rows, None, mask],
        attrs={"num_heads": heads, "scale": float(scaling or size**-0.5)},
        dtype=query.dtype,
        shape=rows[0].shape,
        version=1,
    )
    return out.reshape(batch, seq, heads, size), None
