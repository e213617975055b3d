"""A sentence-transformers bi-encoder as one torch module that an ONNX graph can be traced from."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer

from rpc.terminal import CommandError
from training import torch_graph
from training.bundle_files import BI_ENCODER
from training.model_source import ModelSource, kind_of
from training.onnx_run import IDS, MASK

Vectors = NDArray[np.float32]

_ITEM_PROMPTS = ("document", "passage", "corpus", "item")
_NORM_MIN = 1e-12  # torch.nn.functional.normalize's eps


def load_model(source: ModelSource) -> SentenceTransformer:
    """Return the model on the CPU, in evaluation mode, with full-precision weights.

    Raises:
        CommandError: it cannot be found, or it is not a bi-encoder.
    """
    if kind_of(source) != BI_ENCODER:
        raise CommandError(f"{source.location} is not a bi-encoder: it scores pairs of texts")
    try:
        model = SentenceTransformer(
            source.location, device="cpu", model_kwargs={"dtype": "float32"}
        )
    except Exception as exc:  # each reader of a file has errors of its own
        raise CommandError(
            f"cannot load {source.location}: {_first_line(exc)}; give a folder or the id of a "
            "sentence-transformers bi-encoder"
        ) from exc
    _require_texts(source, model)
    return model.eval()


def pooling_of(model: SentenceTransformer) -> str | None:
    """Return how token vectors become one: "mean", "cls", "max" and so on; None without pooling."""
    for module in model:
        mode = getattr(module, "pooling_mode", None)
        if mode is not None:
            return mode if isinstance(mode, str) else "+".join(mode)
    return None


def max_tokens_of(model: Any) -> int:
    """Return the most tokens the model takes, special tokens included."""
    backbone = model[0].model
    rows = getattr(backbone.config, "max_position_embeddings", 512)
    positions = rows - _rows_before_the_first(backbone)
    return int(min(model.max_seq_length or positions, positions))


def prompts_of(model: SentenceTransformer) -> dict[str, str]:
    """Return what the model wants before a "query" and an "item"; empty where it wants nothing."""
    prompts: dict[str, str] = {name: text or "" for name, text in model.prompts.items()}
    item = next((prompts[name] for name in _ITEM_PROMPTS if prompts.get(name)), "")
    return {"query": prompts.get("query", ""), "item": item}


def require_prompts_pooled(
    source: ModelSource, model: SentenceTransformer, prompts: Mapping[str, str]
) -> None:
    """Refuse prompts whose tokens the model leaves out of its pooling.

    To whoever puts a prompt before a text, it is part of that text.

    Raises:
        CommandError: there is a prompt, and the model pools without it.
    """
    without = any(getattr(module, "include_prompt", True) is False for module in model)
    if without and any(prompts.values()):
        raise CommandError(
            f"{source.location} leaves its prompt out of the pooling (include_prompt=false), and a "
            "bundle pools over all tokens; give a model that pools over its prompt, or use this "
            'one without: --query-prompt "" --item-prompt ""'
        )


def reference_vectors(
    model: SentenceTransformer, texts: Sequence[str], max_tokens: int, prompt: str = ""
) -> Vectors:
    """Return unit float32 vectors of shape (n, dim), one text a run, by the model itself.

    Raises:
        CommandError: the model does not take max_tokens tokens.
    """
    model.max_seq_length = max_tokens
    try:
        rows = [
            # Without a prompt named here, the model would put its default one.
            model.encode(text, prompt=prompt, normalize_embeddings=True, show_progress_bar=False)
            for text in texts
        ]
    except (IndexError, RuntimeError) as exc:
        raise CommandError(
            f"the model fails on texts cut at {max_tokens} tokens: {_first_line(exc)}; give a "
            "smaller --max-tokens"
        ) from exc
    return np.stack(rows).astype(np.float32)


def trace(model: SentenceTransformer, *, fused: bool = True) -> Any:
    """Return the ONNX ModelProto of the whole path from token ids to a unit vector."""
    return torch_graph.trace(_WholePath(model), model[0].model, [IDS, MASK], fused=fused)


class _WholePath(torch.nn.Module):
    """The model's modules in order, then L2 normalisation."""

    def __init__(self, model: SentenceTransformer) -> None:
        super().__init__()
        kept = [module for module in model if type(module).__name__ != "Normalize"]
        self.stages = torch.nn.ModuleList(kept)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        features: dict[str, Any] = {IDS: input_ids, MASK: attention_mask}
        for stage in self.stages:
            features = stage(features)
        pooled: torch.Tensor = features["sentence_embedding"]
        length: torch.Tensor = torch.sqrt((pooled * pooled).sum(dim=1, keepdim=True))
        return pooled / length.clamp(min=_NORM_MIN)


def _require_texts(source: ModelSource, model: SentenceTransformer) -> None:
    """Refuse a model whose first module does not turn token ids into vectors."""
    if pooling_of(model) is None or not hasattr(model[0], "model"):
        raise CommandError(
            f"{source.location} is not a bi-encoder of texts: its first module is "
            f"{type(model[0]).__name__}; give a sentence-transformers model of a transformer and a "
            "Pooling module"
        )


def _rows_before_the_first(backbone: Any) -> int:
    """Return how many rows of a table of positions no token has.

    RoBERTa and its kin number positions from behind the padding's: 514 rows hold 512 tokens.
    """
    for name, module in backbone.named_modules():
        if name.endswith("position_embeddings"):
            padding = getattr(module, "padding_idx", None)
            return 0 if padding is None else int(padding) + 1
    return 0


def _first_line(exc: BaseException) -> str:
    return (str(exc).strip() or type(exc).__name__).splitlines()[0]
