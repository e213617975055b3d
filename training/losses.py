"""The loss a recipe names, put together of sentence-transformers' losses."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from rpc.terminal import CommandError
from training.recipe import Recipe, RerankerRecipe

Features = dict[str, torch.Tensor]
Loss = Callable[[Sequence[Features]], torch.Tensor]
ListLoss = Callable[[Sequence[str], Sequence[Sequence[str]]], torch.Tensor]


def build_loss(model: Any, recipe: Recipe) -> Loss:
    """Return a function from the features of each column to a loss.

    The columns are queries, their items, and any number of negatives.

    Raises:
        CommandError: a Matryoshka dimension is larger than the model's.

    Source: Henderson et al., Efficient Natural Language Response Suggestion for Smart Reply
        (arXiv 1705.00652), section 4.4; both directions, Guenther et al. (arXiv 2310.19923);
        gradients by mini-batch, Gao et al. (arXiv 2101.06983); Matryoshka, Kusupati et al.
        (arXiv 2205.13147), with weight 1 for each dimension.
    """
    from sentence_transformers.sentence_transformer import losses

    dims = dims_of(model, recipe)
    options: dict[str, Any] = {
        "scale": 1.0 / recipe.loss.temperature,
        "directions": ("query_to_doc", "doc_to_query")
        if recipe.loss.symmetric
        else ("query_to_doc",),
        "partition_mode": "per_direction" if recipe.loss.symmetric else "joint",
        "hardness_mode": "all_negatives" if recipe.loss.hardness else None,
        "hardness_strength": recipe.loss.hardness,
        "similarity_fct": cosines,
    }
    if recipe.loss.kind == "mnrl":
        whole = losses.MultipleNegativesRankingLoss(model, **options)
        return lambda columns: _over_dims(
            whole,
            [embed_by_length(model, each, recipe.batches.mini_batch) for each in columns],
            dims,
        )
    cached: Any = losses.CachedMultipleNegativesRankingLoss(
        model, mini_batch_size=recipe.batches.mini_batch, **options
    )
    if len(dims) > 1:
        cached = losses.MatryoshkaLoss(model, cached, dims)
    return lambda columns: cached(columns, None)


def dims_of(model: Any, recipe: Recipe) -> list[int]:
    """Return how many first dimensions are trained to stand alone, all of them first.

    Raises:
        CommandError: the recipe asks for more than the model has.
    """
    whole = int(model.get_embedding_dimension())
    largest = max(recipe.loss.matryoshka_dims, default=1)
    if largest > whole:
        raise CommandError(
            f"loss.matryoshka_dims has {largest}; allowed 1..{whole}, the model's dimensions"
        )
    return sorted({whole, *recipe.loss.matryoshka_dims}, reverse=True)


def cosines(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return the cosines of all pairs in float32: over a temperature, bfloat16 is too coarse.

    Args:
        left: shape (n, dim).
        right: shape (m, dim).

    Returns:
        Shape (n, m).
    """
    with torch.autocast(left.device.type, enabled=False):
        unit = [torch.nn.functional.normalize(each.float(), dim=1) for each in (left, right)]
        return unit[0] @ unit[1].T


def build_reranker_loss(model: Any, recipe: RerankerRecipe) -> ListLoss:
    """Return a function from queries, and a list of texts for each, to a loss.

    The first text of a list is right, the others are not; lists are of one length.

    Source: RankNet, Burges et al. (ICML 2005); "lambda", NDCG-Loss2++ of Wang et al., The
        LambdaLoss Framework for Ranking Metric Optimization (CIKM 2018).
    """
    from sentence_transformers.cross_encoder import losses

    size = recipe.batches.mini_batch
    if recipe.loss.kind == "bce":
        single: Any = losses.BinaryCrossEntropyLoss(model)
        return lambda queries, lists: _mean_over(
            single, _flat(queries, lists), _labels(model, lists).ravel(), size
        )
    kinds = {"ranknet": losses.RankNetLoss, "lambda": losses.LambdaLoss}
    whole: Any = kinds[recipe.loss.kind](model, mini_batch_size=size)
    return lambda queries, lists: whole([list(queries), lists], list(_labels(model, lists)))


def _mean_over(
    loss: Any, columns: Sequence[Sequence[str]], labels: torch.Tensor, size: int
) -> torch.Tensor:
    """Return the mean of a loss over all rows, taken by mini-batches of so many."""
    parts = []
    for start in range(0, len(labels), size):
        rows = slice(start, start + size)
        parts.append(loss([each[rows] for each in columns], labels[rows]) * len(labels[rows]))
    return torch.stack(parts).sum() / len(labels)


def _flat(queries: Sequence[str], lists: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return two columns: a query for each text, and the texts."""
    return [
        [query for query, texts in zip(queries, lists, strict=True) for _ in texts],
        [text for texts in lists for text in texts],
    ]


def _labels(model: Any, lists: Sequence[Sequence[str]]) -> torch.Tensor:
    """Return 1 for the first text of each list and 0 for the others, shape (lists, texts)."""
    labels = torch.zeros(len(lists), len(lists[0]), device=model.device)
    labels[:, 0] = 1.0
    return labels


def embed_by_length(model: Any, features: Features, size: int) -> torch.Tensor:
    """Return vectors of shape (n, dim), embedded in mini-batches of texts of like length.

    Padding costs as much as words do: a batch of titles has one that is three times the mean.

    Args:
        model: the bi-encoder.
        features: tensors of shape (n, tokens), attention_mask among them.
        size: texts a mini-batch.
    """
    order = torch.argsort(features["attention_mask"].sum(dim=1), stable=True)
    vectors = []
    for rows in torch.split(order, size):
        used = features["attention_mask"][rows].any(dim=0)
        some = {name: value[rows][:, used] for name, value in features.items()}
        vectors.append(model(some)["sentence_embedding"])
    return torch.cat(vectors)[torch.argsort(order)]


def _over_dims(loss: Any, vectors: Sequence[torch.Tensor], dims: Sequence[int]) -> torch.Tensor:
    """Return the sum of the losses of the first dimensions alone."""
    parts = [
        loss.compute_loss_from_embeddings([each[:, :dim] for each in vectors], None) for dim in dims
    ]
    return torch.stack(parts).sum()
