import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from rpc.terminal import CommandError
from training import reproduce as module
from training.recipe import Recipe
from training.reproduce import ReproduceOptions, reproduce
from training.reproduced_systems import systems_of
from training.sample_catalog import write_sample
from training.system_notation import parse_systems

RECIPE = """
name = "tiny"
[model]
base = "{base}"
max_tokens = 32
[data]
pairs_max = 96
[loss]
kind = "cached_mnrl"
symmetric = true
matryoshka_dims = [8, 16]
[batches]
size = 16
mini_batch = 8
product_once = true
[negatives]
per_pair = 1
from_epoch = 2
rank_last = 20
[optimizer]
learning_rate = 0.01
epochs = 2
[run]
evaluations_per_epoch = 1
dev_queries = 20
dev_items = 60
"""


RERANKER = """
name = "tiny-reranker"
[model]
base = "{base}"
max_tokens = 32
[data]
pairs_max = 32
[batches]
size = 16
[optimizer]
learning_rate = 0.01
[run]
evaluations_per_epoch = 1
dev_queries = 10
dev_items = 60
dev_depth = 5
"""


@pytest.fixture
def options(tiny_model, tmp_path):
    """The sample catalogue's own reviews, and a recipe of a few steps."""
    write_sample(tmp_path / "catalog", 150, 7)
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE.format(base=tiny_model))
    reranker = tmp_path / "tiny-reranker.toml"
    reranker.write_text(RERANKER.format(base=tiny_model))
    return ReproduceOptions(
        [tmp_path / "catalog" / "reviews.jsonl.gz"],
        [tmp_path / "catalog" / "items.jsonl.gz"],
        [recipe],
        tmp_path / "out",
        reranker=reranker,
        quantization="none",
    )


@pytest.fixture
def stages(monkeypatch):
    """Names of the stages that ran; they write what the next looks at, and take no time.

    A run's model is the number of the run, as another machine's would differ with one run_id.
    """
    ran = []

    def learn(recipe, run):
        (run / "model").mkdir(parents=True)  # fails where an older one was not removed
        ran.append(recipe.name)
        (run / "model" / "model.safetensors").write_text(f"{len(ran)}")
        record = {"recipe": recipe.model_dump(mode="json"), "run_id": "same"}
        (run / "run.json").write_text(json.dumps(record))

    def export(given):
        assert not given.out.exists()
        ran.append(f"{given.name} as {given.quantization}")
        given.out.mkdir(parents=True)
        (given.out / "encoder.json").write_text("{}")

    monkeypatch.setattr(module, "train", lambda recipe, data, run: learn(recipe, run))
    monkeypatch.setattr(
        module, "train_reranker", lambda recipe, data, model, run, cache: learn(recipe, run)
    )
    monkeypatch.setattr(module, "export", export)
    monkeypatch.setattr(module, "compare", lambda given: {"systems": {}})
    return ran


EVERYTHING = ["tiny", "tiny as none", "tiny-reranker", "tiny-reranker as none"]


def test_reviews_become_a_data_set_a_model_a_bundle_and_a_table(options, monkeypatch):
    recalls = reproduce(options)
    out = options.out
    report = (out / "report" / "report.md").read_text()
    for system in (
        "zero-shot-tiny", "bm25", "tiny", "tiny-8", "tiny-hnsw", "tiny-bundle", "tiny-rerank-20",
        "tiny-rerank-100", "tiny-hnsw-8", "tiny-hnsw-128", "tiny-bundle-hnsw",
    ):  # fmt: skip
        assert f"| {system} | " in report
    for picture in ("dims.png", "ef_search.png", "recall_latency.png"):
        assert f"]({picture})" in report
    for run in ("tiny", "tiny-reranker"):
        assert f"![Loss and dev of {run}](curves-{run}.png)" in report
        copied = (out / "report" / f"curves-{run}.png").read_bytes()
        assert copied == (out / "runs" / run / "curves.png").read_bytes()
    assert set(recalls["report"]) == set(recalls["report-masked"]) >= {"tiny-rrf", "tiny-weighted"}
    # One text a run in ONNX, many in torch: the same vectors, so the same table.
    assert recalls["report"]["tiny-bundle"] == pytest.approx(recalls["report"]["tiny"], abs=0.02)
    bundle = json.loads((out / "bundles" / "tiny" / "encoder.json").read_text())
    assert (bundle["dim"], bundle["matryoshka_dims"]) == (16, [8])
    assert bundle["fusion"].keys() == {"rrf", "weighted", "bm25", "tuned_on"}
    reranker = json.loads((out / "bundles" / "tiny-reranker" / "encoder.json").read_text())
    assert reranker["kind"] == "cross_encoder"
    assert (out / "runs" / "tiny" / "curves.png").is_file()

    # All is done: the same command makes the table again, and nothing else.
    for stage in ("make_dataset", "train", "train_reranker", "export"):
        monkeypatch.delattr(module, stage)
    assert reproduce(options) == recalls


def test_a_folder_of_other_files_is_refused(options):
    options.out.mkdir()
    (options.out / "inputs.json").write_text('{"reviews": [], "items": [], "pairs": 9}')
    with pytest.raises(CommandError, match="holds what was made of other files"):
        reproduce(options)


def test_a_wrong_recipe_is_refused_before_any_stage(options):
    options.recipes[0].write_text('name = "tiny"\nspeed = 2\n')
    with pytest.raises(CommandError, match="speed is no key of a recipe"):
        reproduce(options)
    assert not options.out.exists()


def test_two_recipes_from_models_of_runs_are_systems_with_names_of_their_own():
    recipes = [
        Recipe.model_validate(
            {
                "name": f"from-{run}",
                "model": {"base": f"runs/{run}/model"},
                "batches": {"size": 8},
                "optimizer": {"learning_rate": 0.1},
            }
        )
        for run in ("in-batch", "second")
    ]
    written = parse_systems(systems_of(recipes, Path("out")))
    assert [system.name for system in written[:2]] == [
        "zero-shot-in-batch-model", "zero-shot-second-model",
    ]  # fmt: skip


def test_names_that_stand_for_two_things_are_refused_before_any_stage(options):
    with pytest.raises(CommandError, match="two recipes are called tiny;"):
        reproduce(replace(options, recipes=options.recipes * 2))
    options.reranker.write_text(
        options.reranker.read_text().replace('"tiny-reranker"', '"tiny"', 1)
    )
    with pytest.raises(CommandError, match="two recipes are called tiny;"):
        reproduce(options)
    other = options.recipes[0].with_name("other.toml")  # and "tiny" at 8 dimensions is "tiny-8"
    other.write_text(options.recipes[0].read_text().replace('"tiny"', '"tiny-8"', 1))
    with pytest.raises(CommandError, match="two systems are called tiny-8"):
        reproduce(replace(options, recipes=[*options.recipes, other], reranker=None))
    assert not options.out.exists()


def test_a_category_that_no_pair_has_is_refused_before_any_recipe_is_trained(options, stages):
    other = options.recipes[0].with_name("other.toml")
    text = options.recipes[0].read_text().replace('"tiny"', '"other"', 1)
    other.write_text(text.replace("[data]", '[data]\nexcept_category = "Bobby"'))
    with pytest.raises(CommandError, match=r"data\.except_category is 'Bobby', and no pair has it"):
        reproduce(replace(options, recipes=[*options.recipes, other]))
    assert stages == []


def test_another_model_is_exported_again_and_the_reranker_learns_from_it(options, stages):
    reproduce(options)
    reproduce(options)
    assert stages == EVERYTHING
    shutil.rmtree(options.out / "runs" / "tiny")
    reproduce(options)
    assert stages == EVERYTHING * 2


def test_other_weights_in_the_bundles_are_exported_again_and_nothing_is_trained(options, stages):
    reproduce(options)
    reproduce(replace(options, quantization="int8"))
    assert stages == [*EVERYTHING, "tiny as int8", "tiny-reranker as int8"]


def test_an_interrupted_export_leaves_no_bundle_that_counts(options, stages, monkeypatch):
    reproduce(options)

    def interrupted(given):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "export", interrupted)
        with pytest.raises(KeyboardInterrupt):
            reproduce(replace(options, quantization="int8"))
    reproduce(options)
    assert stages == [*EVERYTHING, "tiny as none"]


def test_an_input_file_of_other_content_is_refused(options, stages):
    reproduce(options)
    [reviews] = options.reviews
    before = reviews.read_bytes()
    reviews.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))  # of the same length
    with pytest.raises(CommandError, match=r"reviews\.jsonl\.gz has changed since .*out was made"):
        reproduce(options)
    reviews.write_bytes(before)
    reproduce(options)
    assert stages == EVERYTHING


def test_a_folder_that_does_not_say_what_its_input_files_held_is_refused(options):
    options.out.mkdir()
    paths = {"reviews": [str(options.reviews[0])], "items": [str(options.items[0])], "pairs": 9}
    (options.out / "inputs.json").write_text(json.dumps(paths))
    with pytest.raises(CommandError, match="holds what was made of other files"):
        reproduce(options)
