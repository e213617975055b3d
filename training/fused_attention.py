"""Attention that a traced model computes in one node each, where it is what that node does."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.models.mpnet.modeling_mpnet import MPNetSelfAttention

_FUSED = "vitrine_fused"


@contextmanager
def plain_attention(backbone: Any) -> Iterator[None]:
    """Let a transformers model's attentions be traced step by step, as exporters leave them."""
    usual = backbone.config._attn_implementation  # noqa: SLF001
    backbone.set_attn_implementation("eager")
    try:
        yield
    finally:
        backbone.set_attn_implementation(usual)


@contextmanager
def fused_attention(backbone: Any) -> Iterator[None]:
    """Let a transformers model's attentions be traced as com.microsoft MultiHeadAttention.

    Models that look their attention up get another, and so does MPNet, whose attention is its own;
    all others compute it as they do. Within, a model can be traced but not run.
    """
    with plain_attention(backbone):
        if can_fuse(backbone):
            backbone.set_attn_implementation(_registered())
        own = [module for module in backbone.modules() if isinstance(module, MPNetSelfAttention)]
        for module in own:
            module.forward = partial(_mpnet_attention, module)  # type: ignore[method-assign]
        try:
            yield
        finally:
            for module in own:
                del module.forward


def can_fuse(backbone: Any) -> bool:
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


def _registered() -> str:
    """Teach transformers an attention that exports as a single node; return its name."""
    AttentionInterface.register(_FUSED, _looked_up_attention)
    AttentionMaskInterface.register(_FUSED, _padding_mask)
    return _FUSED


def _padding_mask(*_: Any, attention_mask: torch.Tensor | None = None, **__: Any) -> Any:
    """Hand the (batch, seq) mask through as it is: the fused node understands it."""
    return attention_mask


def _looked_up_attention(
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
    out = _node([*rows, None, mask], heads, scaling or size**-0.5)
    return out.reshape(batch, seq, heads, size), None


def _mpnet_attention(
    module: Any,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor]:
    """Attend as MPNetSelfAttention does, over (batch, seq, width): with a bias by position.

    The mask is added to scores there, and so to the bias here; all layers share the sum.
    """
    rows = [project(hidden_states) for project in (module.q, module.k, module.v)]
    parts = [part for part in (position_bias, attention_mask) if part is not None]
    out = _node(
        [*rows, None, None, sum(parts[1:], parts[0]) if parts else None],
        module.num_attention_heads,
        module.attention_head_size**-0.5,
    )
    return (module.o(out),)


def _node(inputs: list[torch.Tensor | None], heads: int, scale: float) -> torch.Tensor:
    """Return what the node makes of query, key and value of shape (batch, seq, width)."""
    (query, *_) = inputs
    assert query is not None
    out: torch.Tensor = torch.onnx.ops.symbolic(
        "com.microsoft::MultiHeadAttention",
        inputs,
        attrs={"num_heads": heads, "scale": float(scale)},
        dtype=query.dtype,
        shape=query.shape,
        version=1,
    )
    return out
