import json

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from encoder_service.bundle import load_bundle
from encoder_service.encoder import load_encoder
from rpc.terminal import CommandError
from tests.training.small_models import make_model
from training.beir import load_collection
from training.distill import distill
from training.distill_task import Lesson, least_squares, prepare_task, texts_of
from training.evaluate import EvaluateOptions, compare
from training.examples import read_examples
from training.export import export
from training.export_options import ExportOptions
from training.recipe import DistillRecipe

# 2 epochs of 48 reviews and 24 titles, 16 a batch: a title of two words is all of its words.
TOTAL_STEPS = 10


def a_recipe(base, **sections):
    written = {
        "name": "tiny-student",
        "model": {"base": str(base), "max_tokens": 12},
        "batches": {"size": 16, "mini_batch": 8, "bucket": 2},
        "optimizer": {"learning_rate": 0.01, "epochs": 2},
        "run": {
            "evaluations_per_epoch": 1,
            "checkpoint_steps": 1,
            "dev_queries": 24,
            "dev_items": 24,
            "bf16": False,  # the same numbers on every machine
        },
    }
    for name, keys in sections.items():
        written[name] = {**written.get(name, {}), **keys}
    return DistillRecipe.model_validate(written)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, minilm_model):
    """A bi-encoder of 128 dimensions with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return make_model(tmp_path_factory.mktemp("models") / "teacher", minilm_model)


@pytest.fixture(scope="module")
def run_of(tiny_model, tiny_data, teacher, tmp_path_factory):
    """A student of 16 dimensions that learned for 8 epochs, and its record."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    recipe = a_recipe(tiny_model, optimizer={"epochs": 8}, run={"checkpoint_steps": 100})
    return out, distill(recipe, tiny_data, str(teacher), out, out.parent / "cache")


def test_a_student_comes_nearer_to_its_teacher(run_of, teacher, tiny_data):
    out, record = run_of
    assert record == json.loads((out / "run.json").read_text())
    assert record["losses"][-1][1] < 0.8 * record["losses"][0][1]
    texts = list(load_collection(tiny_data, "dev").query_texts)
    student, taught = (
        SentenceTransformer(str(folder), device="cpu").encode(texts, normalize_embeddings=True)
        for folder in (out / "model", teacher)
    )
    assert student.shape == taught.shape == (24, 128)
    assert (student * taught).sum(axis=1).mean() > 0.9
    assert record["dev_recall_at_10"]["best"] >= 0.6 * record["dev"]["teacher_recall_at_10"] > 0


def test_a_student_is_exported_with_its_projection_and_asks_over_its_teacher_s_items(
    run_of, teacher, tiny_data, tmp_path
):
    out, record = run_of
    bundle = tmp_path / "bundle"
    said = export(ExportOptions(str(out / "model"), bundle, quantization="none"))
    assert (said["dim"], said["pooling"], said["normalize"]) == (128, "mean", True)
    texts = ["red boots", "a blue scarf " * 20]
    expected = SentenceTransformer(str(out / "model"), device="cpu").encode(texts)
    got = load_encoder(load_bundle(bundle)).encode(texts)
    np.testing.assert_allclose(got, expected, atol=1e-4)
    systems = [f"teacher={teacher}", f"student={bundle}@{teacher}"]
    options = EvaluateOptions(
        tiny_data, systems, tmp_path / "report", tmp_path / "cache", split="dev"
    )
    found = compare(options)["systems"]
    recall = {name: each["measures"]["recall@10"]["mean"] for name, each in found.items()}
    assert recall["teacher"] == pytest.approx(record["dev"]["teacher_recall_at_10"], abs=1e-4)
    assert recall["student"] == pytest.approx(record["dev_recall_at_10"]["best"], abs=0.05)


def test_an_interrupted_run_goes_on_to_the_same_numbers(
    tiny_model, tiny_data, teacher, tmp_path, interrupted_at, monkeypatch
):
    def trained(name):
        return distill(
            a_recipe(tiny_model), tiny_data, str(teacher), tmp_path / name, tmp_path / "cache"
        )

    whole = trained("whole")
    interrupted_at(TOTAL_STEPS - 1)
    with pytest.raises(KeyboardInterrupt):
        trained("cut")
    monkeypatch.undo()
    again = trained("cut")
    assert whole["steps"] == TOTAL_STEPS
    assert again["losses"] == whole["losses"]
    assert again["evaluations"] == whole["evaluations"]


def test_a_teacher_of_as_many_dimensions_needs_no_projection(tiny_model, tiny_data, tmp_path):
    out, cache = tmp_path / "out", tmp_path / "cache"
    record = distill(a_recipe(tiny_model), tiny_data, str(tiny_model), out, cache)
    kinds = [type(m).__name__ for m in SentenceTransformer(str(out / "model"), device="cpu")]
    assert kinds == ["Transformer", "Pooling"]
    # It is its teacher already, but for dropout.
    assert record["dev_recall_at_10"]["before"] == record["dev"]["teacher_recall_at_10"]


def test_another_teacher_makes_another_run(tiny_model, tiny_data, teacher, tmp_path):
    recipe, cache = a_recipe(tiny_model, optimizer={"epochs": 1}), tmp_path / "cache"
    distill(recipe, tiny_data, str(teacher), tmp_path / "out", cache)
    with pytest.raises(CommandError, match="holds a run of another recipe, model or data set"):
        distill(recipe, tiny_data, str(tiny_model), tmp_path / "out", cache)


def test_the_recipe_says_which_texts_are_learned_on(tiny_model, tiny_data):
    examples = read_examples(tiny_data, None, None)
    titles = texts_of(a_recipe(tiny_model, data={"texts": ["titles"]}), examples)
    assert titles.texts == examples.items
    assert titles.answers.tolist() == list(range(24))
    both = texts_of(a_recipe(tiny_model, data={"texts": ["reviews", "words"]}), examples)
    assert set(examples.queries) < set(both.texts)
    of_review = dict(zip(both.texts, both.answers.tolist(), strict=True))
    assert [of_review[text] for text in examples.queries] == examples.positives.tolist()


def test_a_student_that_learns_to_find_items_finds_more_than_its_teacher(
    run_of, tiny_model, tiny_data, teacher, tmp_path
):
    _, without = run_of
    recipe = a_recipe(
        tiny_model,
        optimizer={"epochs": 8},
        loss={"find_items": 1.0},
        run={"checkpoint_steps": 100},
    )
    record = distill(recipe, tiny_data, str(teacher), tmp_path / "out", tmp_path / "cache")
    found = record["dev_recall_at_10"]["best"]
    assert found > without["dev_recall_at_10"]["best"]
    assert found > record["dev"]["teacher_recall_at_10"]


def test_items_of_the_answer_s_product_are_no_wrong_ones(tiny_model, tiny_data):
    examples = read_examples(tiny_data, None, None)
    dev = load_collection(tiny_data, "dev")
    recipe = a_recipe(tiny_model, loss={"find_items": 1.0})
    learned = texts_of(recipe, examples)
    drawn = np.random.default_rng(2).normal(size=(100, 16)).astype(np.float32)
    lesson = Lesson("t", "f", learned, drawn[: len(learned.texts)], drawn[:24], drawn[:24])
    task = prepare_task(recipe, examples, lesson, dev, same_title=True)
    task.model.eval()
    batch, costs = [0, 1], []
    for products in (task.products, np.zeros_like(task.products)):
        task.products = products
        costs.append(task.loss(batch, None).item())
    task.recipe = a_recipe(tiny_model)
    without = task.loss(batch, None).item()
    # One product of all items leaves nothing to be mistaken for the answer.
    assert costs[0] > costs[1] == pytest.approx(without)


def test_a_linear_map_is_found_again():
    draw = np.random.default_rng(1)
    weight, bias = draw.normal(size=(5, 3)), draw.normal(size=5)
    inputs = draw.normal(size=(200, 3)).astype(np.float32)
    found, offset = least_squares(inputs, (inputs @ weight.T + bias).astype(np.float32))
    np.testing.assert_allclose(found, weight, atol=5e-3)
    np.testing.assert_allclose(offset, bias, atol=5e-3)
