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


def another(options, name, *changes):
    """Return the options with a recipe more: the first one's, with these texts replaced."""
    text = options.recipes[0].read_text().replace('"tiny"', f'"{name}"', 1)
    for before, after in changes:
        assert before in text
        text = text.replace(before, after, 1)
    path = options.recipes[0].with_name(f"{name}.toml")
    path.write_text(text)
    return replace(options, recipes=[*options.recipes, path])


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("[8, 16]", "[8, 17]", r"loss\.matryoshka_dims has 17; allowed 1\.\.16"),
        (
            "max_tokens = 32",
            "freeze_token_embeddings = true\nfreeze_layers = 1",
            r"model\.freeze_layers is 1; allowed 0\.\.0",
        ),
        ("max_tokens = 32", "max_tokens = 64", r"model\.max_tokens is 64; allowed 8\.\.32"),
    ],
)
@pytest.mark.parametrize("base", ["itself", "what the first leaves"])
def test_what_a_base_cannot_do_is_refused_before_anything_is_made(
    options, tiny_model, base, before, after, said
):
    changes = [(before, after)]
    if base != "itself":
        changes.append((str(tiny_model), "runs/tiny/model"))
    with pytest.raises(CommandError, match=f"recipe other: {said}"):
        reproduce(another(options, "other", *changes))
    assert not options.out.exists()


def test_a_base_that_is_not_there_is_refused_before_anything_is_made(options, tiny_model):
    for base in ("runs/absent/model", str(options.out / "model"), "runs/a@b/model"):
        with pytest.raises(CommandError, match=r"recipe other: (there is no model folder|.*@ is)"):
            reproduce(another(options, "other", (str(tiny_model), base)))
    assert not options.out.exists()


def test_a_recipe_starts_from_what_one_before_it_leaves(options, stages, tiny_model):
    both = replace(another(options, "second", (str(tiny_model), "runs/tiny/model")), reranker=None)
    reproduce(both)
    reproduce(both)
    order = ["tiny", "tiny as none", "second", "second as none"]
    assert stages == order
    runs = options.out / "runs"
    record = json.loads((runs / "second" / "run.json").read_text())
    assert record["recipe"]["model"]["base"] == str(runs / "tiny" / "model")
    shutil.rmtree(runs / "tiny")
    reproduce(both)  # another model of the first, so another of the second
    assert stages == order * 2


def test_a_model_of_the_same_command_is_no_system_twice(options, tiny_model):
    both = another(options, "second", (str(tiny_model), "runs/tiny/model"))
    recipes, _ = module._read_recipes(both)
    named = [system.split("=")[0] for system in systems_of(recipes, both.out)]
    assert [name for name in named if name.startswith("zero-shot")] == ["zero-shot-tiny"]


@pytest.mark.parametrize("sign", ["@", "?"])
def test_a_folder_that_no_system_can_be_written_with_is_refused_at_once(options, tmp_path, sign):
    out = tmp_path / f"a{sign}b"
    with pytest.raises(CommandError, match=rf"--out is .*; \{sign} is notation of systems"):
        reproduce(replace(options, out=out))
    assert not out.exists()


def test_another_number_of_pairs_is_said_to_be_what_differs(options, stages):
    reproduce(options)
    with pytest.raises(CommandError, match=r"was made with --pairs 50000, not 96; give that"):
        reproduce(replace(options, num_pairs=96))


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


def test_a_torn_record_of_a_run_is_named(options, stages):
    reproduce(options)
    record = options.out / "runs" / "tiny" / "run.json"
    record.write_bytes(record.read_bytes()[:20])
    with pytest.raises(CommandError, match=r"run\.json: not valid JSON.*; remove it and make it"):
        reproduce(options)


def test_a_folder_that_does_not_say_what_its_input_files_held_is_refused(options):
    options.out.mkdir()
    paths = {"reviews": [str(options.reviews[0])], "items": [str(options.items[0])], "pairs": 9}
    (options.out / "inputs.json").write_text(json.dumps(paths))
    with pytest.raises(CommandError, match="holds what was made of other files"):
        reproduce(options)
