"""A bi-encoder whose vectors are turned, so that their first dimensions say the most.

Turned vectors have the inner products that they had; what is lost by leaving out the last of them
is the least that any turn loses.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def principal_directions(vectors: Floats) -> Floats:
    """Return the turn to principal directions, an orthogonal float32 matrix of shape (dim, dim).

    `vectors @ directions.T` has its dimensions in the order of how much of all vectors lies in
    them, the mean not taken out: vectors that are compared by inner product are turned about 0.

    Args:
        vectors: float32 of shape (n, dim).

    Source: Jolliffe, Principal Component Analysis (2002), chapter 2.

    >>> principal_directions(np.float32([[0, 2], [1, 0], [0, -3]])).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    square = vectors.T.astype(np.float64) @ vectors
    _, columns = np.linalg.eigh(square)
    rows = columns.T[::-1]
    # Of a direction and its opposite, one is taken, so that a turn is the same everywhere.
    largest = np.take_along_axis(rows, np.abs(rows).argmax(axis=1)[:, None], axis=1)
    turned: Floats = (rows * np.sign(largest)).astype(np.float32)
    return turned


def turned(model: Any, directions: Floats) -> Any:
    """Return the model with its vectors turned, by a linear layer behind its pooling.

    A linear layer that is there takes the turn in.
    """
    linear = last_linear(model)
    if linear is None:
        return with_linear(model, directions, None)
    turn = torch.from_numpy(directions).to(linear.weight.device)
    with torch.no_grad():
        linear.weight.copy_(turn @ linear.weight)
        if linear.bias is not None:
            linear.bias.copy_(turn @ linear.bias)
    return model


def last_linear(model: Any) -> Any:
    """Return the linear layer that a model ends in, L2 normalisation aside; None without one."""
    last = kept_modules(model)[-1]
    activation = getattr(last, "activation_function", None)
    return last.linear if isinstance(activation, torch.nn.Identity) else None


def with_linear(model: Any, weight: Floats, bias: Floats | None) -> Any:
    """Return the model with a linear layer between its pooling and L2 normalisation.

    Args:
        model: a sentence-transformers bi-encoder.
        weight: float32 of shape (dimensions out, dimensions in).
        bias: float32 of shape (dimensions out,).
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize

    dense = Dense(
        weight.shape[1],
        weight.shape[0],
        bias=bias is not None,
        activation_function=torch.nn.Identity(),
        init_weight=torch.from_numpy(weight),
        init_bias=None if bias is None else torch.from_numpy(bias),
    )
    whole = SentenceTransformer(
        modules=[*kept_modules(model), dense, Normalize()],
        device=str(model.device),
        prompts=model.prompts,
    )
    whole.max_seq_length = model.max_seq_length
    return whole


def kept_modules(model: Any) -> list[Any]:
    """Return a model's modules without its L2 normalisation."""
    return [module for module in model if type(module).__name__ != "Normalize"]
