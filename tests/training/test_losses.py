import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from training.losses import build_loss, embed_by_length
from training.recipe import Recipe

QUERIES = ["warm boots", "a scarf for winter that is soft", "kettle", "lamp with a green shade"]
ITEMS = ["red boots", "blue scarf", "black kettle of steel, 2 litres, with a lid", "green lamp"]
NEGATIVES = ["white boots", "red scarf", "lamp", "kettle"]


@pytest.fixture(scope="module")
def model(tiny_model):
    """Without dropout, so that the same texts have the same vectors."""
    return SentenceTransformer(str(tiny_model), device="cpu").eval()


def features_of(model, texts):
    found = model.preprocess(texts)
    return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}


def loss_of(model, columns, **loss):
    recipe = Recipe.model_validate(
        {
            "name": "r",
            "model": {"base": "m"},
            "loss": loss,
            "batches": {"size": 4, "mini_batch": 2},
            "optimizer": {"learning_rate": 0.1},
        }
    )
    return build_loss(model, recipe)([features_of(model, texts) for texts in columns])


def value_of(*arguments, **loss):
    return float(loss_of(*arguments, **loss).detach())


def formula(model, columns, temperature, symmetric, dim):
    """Softmax cross-entropy over cosines, in float64, a query at a time."""
    vectors = [model.encode(texts).astype(np.float64)[:, :dim] for texts in columns]
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in vectors]
    queries, items, everything = unit[0], unit[1], np.concatenate(unit[1:])
    losses = []
    for place in range(len(queries)):
        right = queries[place] @ items[place] / temperature
        parts = [np.log(np.exp(everything @ queries[place] / temperature).sum())]
        if symmetric:
            parts.append(np.log(np.exp(queries @ items[place] / temperature).sum()))
        losses.append(np.mean(parts) - right)
    return np.mean(losses)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("columns", [[QUERIES, ITEMS], [QUERIES, ITEMS, NEGATIVES]])
def test_the_loss_is_that_of_the_formula(model, columns, symmetric):
    found = value_of(model, columns, temperature=0.2, symmetric=symmetric)
    expected = formula(model, columns, 0.2, symmetric, 16)
    assert found == pytest.approx(expected, rel=1e-4)


def test_matryoshka_adds_the_losses_of_the_first_dimensions(model):
    found = value_of(model, [QUERIES, ITEMS], temperature=0.2, matryoshka_dims=[4, 8])
    expected = sum(formula(model, [QUERIES, ITEMS], 0.2, False, dim) for dim in (4, 8, 16))
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("dims", [[], [8]])
def test_a_cached_loss_has_the_same_value_and_gradient(model, dims):
    columns = [QUERIES, ITEMS, NEGATIVES]
    options = {"temperature": 0.2, "symmetric": True, "matryoshka_dims": dims}
    gradients, values = [], []
    for kind in ("mnrl", "cached_mnrl"):
        model.zero_grad()
        loss = loss_of(model, columns, kind=kind, **options)
        loss.backward()
        values.append(float(loss.detach()))
        gradients.append(
            [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]
        )
    assert values[0] == pytest.approx(values[1], rel=1e-5)
    assert len(gradients[0]) == len(gradients[1]) > 10
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-5)


def test_hardness_makes_close_negatives_count_more(model):
    plain = value_of(model, [QUERIES, ITEMS], temperature=0.2)
    assert value_of(model, [QUERIES, ITEMS], temperature=0.2, hardness=5.0) > plain


def test_texts_of_like_length_embedded_together_keep_their_places(model):
    features = features_of(model, ITEMS)
    with torch.no_grad():
        found = embed_by_length(model, features, 2)
    np.testing.assert_allclose(found.numpy(), model.encode(ITEMS), atol=1e-5)
