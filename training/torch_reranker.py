"""A sentence-transformers cross-encoder as one torch module to trace an ONNX graph from."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import CrossEncoder

from rpc.terminal import CommandError
from training import torch_graph
from training.model_source import ModelSource
from training.onnx_run import IDS, MASK, TYPES

Scores = NDArray[np.float32]


def load_model(source: ModelSource, *, new_head: bool = False) -> CrossEncoder:
    """Return the model on the CPU, in evaluation mode, with full-precision weights.

    Args:
        source: where it is.
        new_head: a model without a score head gets one, with random weights.

    Raises:
        CommandError: it cannot be loaded, or does not give one score a pair.
    """
    try:
        model: CrossEncoder = CrossEncoder(
            source.location,
            device="cpu",
            num_labels=1 if new_head else None,
            model_kwargs={"dtype": "float32"},
        )
    except Exception as exc:  # each reader of a file has errors of its own
        reason = (str(exc).strip() or type(exc).__name__).splitlines()[0]
        raise CommandError(
            f"cannot load {source.location}: {reason}; give a folder or the id of a "
            "sentence-transformers cross-encoder"
        ) from exc
    if model.num_labels != 1:
        raise CommandError(
            f"{source.location} has {model.num_labels} labels; a reranker needs one score a pair"
        )
    model.eval()
    return model


def takes_types(model: CrossEncoder) -> bool:
    """Tell whether the model is told which tokens are the query's and which the text's."""
    return TYPES in model.tokenizer.model_input_names


def score_pairs(model: CrossEncoder, pairs: Sequence[tuple[str, str]], batch: int) -> Scores:
    """Return raw scores of shape (n,), pairs of like length in one batch."""
    scores: Scores = model.predict(
        list(pairs),
        batch_size=batch,
        activation_fn=torch.nn.Identity(),
        show_progress_bar=False,
    )
    return scores.astype(np.float32)


def reference_scores(
    model: CrossEncoder, pairs: Sequence[tuple[str, str]], max_tokens: int
) -> Scores:
    """Return raw scores of shape (n, 1), one pair a run, by the model itself."""
    model.max_seq_length = max_tokens
    scores = [
        model.predict([pair], activation_fn=torch.nn.Identity(), show_progress_bar=False)
        for pair in pairs
    ]
    return np.stack(scores).astype(np.float32).reshape(-1, 1)


def trace(model: CrossEncoder) -> Any:
    """Return the ONNX ModelProto of the whole path from a pair's token ids to its raw score."""
    inputs = [IDS, MASK, *([TYPES] if takes_types(model) else [])]
    backbone: Any = model[0]
    return torch_graph.trace(_WholePath(model), backbone.model, inputs)


class _WholePath(torch.nn.Module):
    """The model's modules in order, without the activation behind the score."""

    def __init__(self, model: CrossEncoder) -> None:
        super().__init__()
        self.stages = torch.nn.ModuleList(list(model))

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        features: dict[str, Any] = {IDS: input_ids, MASK: attention_mask}
        if token_type_ids is not None:
            features[TYPES] = token_type_ids
        for stage in self.stages:
            features = stage(features)
        scores: torch.Tensor = features["scores"]
        return scores.reshape(-1)
