import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from rpc.terminal import CommandError
from tests.training.small_models import make_cross_encoder
from training import reproduce as module
from training import reproduced_runs
from training.recipe import DistillRecipe, Recipe
from training.reproduce import reproduce
from training.reproduce_plan import ReproduceOptions, read_plan
from training.reproduced_systems import students_of, systems_of
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


STUDENT = """
name = "student"
[model]
base = "{base}"
max_tokens = 32
[data]
pairs_max = 32
[batches]
size = 16
[optimizer]
learning_rate = 0.001
[run]
evaluations_per_epoch = 1
dev_queries = 10
dev_items = 60
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
def with_student(options, tiny_model, tmp_path):
    """The same with a student of the first recipe's bundle, and no reranker."""
    student = tmp_path / "student.toml"
    student.write_text(STUDENT.format(base=tiny_model))
    return replace(options, distill=[student], reranker=None)


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
        weights = (Path(given.model) / "model.safetensors").read_text()
        written = {"encoder_id": f"{weights} as {given.quantization}"}
        (given.out / "encoder.json").write_text(json.dumps(written))

    runs = reproduced_runs
    monkeypatch.setattr(runs, "train", lambda recipe, data, run: learn(recipe, run))
    for name in ("train_reranker", "distill"):
        monkeypatch.setattr(runs, name, lambda recipe, data, of, run, cache: learn(recipe, run))
    monkeypatch.setattr(runs, "export", export)
    monkeypatch.setattr(module, "compare", lambda given: {"systems": {}})
    return ran


EVERYTHING = ["tiny", "tiny as none", "tiny-reranker", "tiny-reranker as none"]
WITH_STUDENT = ["tiny", "tiny as none", "student", "student as none"]


@pytest.mark.timeout(900)  # two minutes of work, on a machine that may be busy
def test_reviews_become_a_data_set_models_bundles_and_tables(
    options, with_student, tiny_data, monkeypatch
):
    options = replace(options, distill=with_student.distill, judgements=[tiny_data])
    recalls = reproduce(options)
    out = options.out
    report = (out / "report" / "report.md").read_text()
    for system in (
        "zero-shot-tiny", "bm25", "tiny", "tiny-8", "tiny-hnsw", "tiny-bundle", "tiny-rerank-20",
        "tiny-rerank-100", "tiny-hnsw-8", "tiny-hnsw-128", "tiny-bundle-hnsw", "student",
        "tiny-hybrid-rerank-50", "tiny-both-20",
    ):  # fmt: skip
        assert f"| {system} | " in report
    for picture in ("dims.png", "ef_search.png", "recall_latency.png"):
        assert f"]({picture})" in report
    for run in ("tiny", "student", "tiny-reranker"):
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
    kept = recalls["report"]["student"] / recalls["report"]["tiny-bundle"]
    listed = [entry["name"] for entry in bundle["compatible_query_encoders"]]
    assert listed == (["student"] if kept >= 0.97 else [])
    require_nothing_tuned_on(tiny_data.name, out)

    # All is done: the same command makes the tables again, and nothing else; here all but one.
    monkeypatch.delattr(module, "make_dataset")
    for stage in ("train", "distill", "train_reranker", "export"):
        monkeypatch.delattr(reproduced_runs, stage)
    del recalls[f"report-{tiny_data.name}"]
    assert reproduce(replace(options, judgements=[])) == recalls


def require_nothing_tuned_on(name, out):
    """Assert that a collection was searched with the weights that dev of the reviews chose."""
    ours, theirs = (
        json.loads((out / folder / "results.json").read_text())
        for folder in ("report", f"report-{name}")
    )
    assert (theirs["data"], theirs["baseline"], theirs["dev"]) == (name, "bm25", None)
    assert theirs["systems"]["bm25"]["note"] == "k1 1.2, b 0.75, as given"
    for system in ("tiny-rrf", "tiny-weighted", "tiny-both-50"):
        assert "tuned on" in ours["systems"][system]["note"]
        assert theirs["systems"][system]["note"].endswith("as given")
        assert theirs["systems"][system]["options"] == ours["systems"][system]["options"]
    left_out = ours["systems"].keys() - theirs["systems"].keys()
    assert all("hnsw" in system for system in left_out)


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
    named = [system.split("=")[0] for system in read_plan(both).systems]
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
        patched.setattr(reproduced_runs, "export", interrupted)
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


def test_a_student_learns_again_from_another_teacher(with_student, stages):
    reproduce(with_student)
    reproduce(with_student)
    assert stages == WITH_STUDENT
    shutil.rmtree(with_student.out / "runs" / "tiny")
    reproduce(with_student)
    assert stages == WITH_STUDENT * 2
    reproduce(replace(with_student, teacher="runs/tiny/model"))
    assert stages == [*WITH_STUDENT * 2, *WITH_STUDENT[2:]]


def test_a_student_learns_again_from_a_teacher_of_other_weights(with_student, stages):
    reproduce(with_student)
    reproduce(replace(with_student, quantization="int8"))
    assert stages == [*WITH_STUDENT, "tiny as int8", "student", "student as int8"]


def test_a_student_starts_from_what_one_before_it_leaves(with_student, stages, tiny_model):
    [first] = with_student.distill
    second = first.with_name("second.toml")
    text = first.read_text().replace('"student"', '"second"')
    second.write_text(text.replace(str(tiny_model), "runs/student/model"))
    both = replace(with_student, distill=[first, second])
    reproduce(both)
    order = [*WITH_STUDENT, "second", "second as none"]
    assert stages == order
    shutil.rmtree(both.out / "runs" / "student")
    reproduce(both)
    assert stages == [*order, *order[2:]]


def test_a_student_that_keeps_too_little_is_told_of_and_everything_else_is_made(
    with_student, stages, monkeypatch, capsys
):
    compared = []

    def compare(given):
        compared.append(given.out.name)
        refused = ["student keeps 0.1"] if given.record else []
        return {"systems": {}, "refused": refused}

    monkeypatch.setattr(module, "compare", compare)
    reproduce(with_student)
    assert capsys.readouterr().err.count("warning: student keeps 0.1\n") == 1
    assert compared == ["report", "report-masked"]


def test_a_teacher_is_a_system_once():
    rest = {"model": {"base": "m"}, "batches": {"size": 8}, "optimizer": {"learning_rate": 0.1}}
    student = DistillRecipe.model_validate({"name": "s", **rest})
    systems = ["zero-shot-m=m", "best-64=runs/best/model?dim=64"]
    for teacher, added in (("m", []), ("runs/best/model", ["teacher=runs/best/model"])):
        asked = f"s=o/bundles/s@{teacher}"
        assert students_of([student], teacher, systems, Path("o")) == [*added, asked]
    assert students_of([], "other", systems, Path("o")) == []


@pytest.mark.parametrize(
    ("teacher", "said"),
    [
        ("/absent", r"--teacher /absent: there is no model folder /absent"),
        ("bundles/absent", r"--teacher bundles/absent: "),
        ("m@n", "--teacher is 'm@n'; @ is notation of systems"),
    ],
)
def test_a_teacher_that_is_not_there_is_refused_before_anything_is_made(
    with_student, teacher, said
):
    with pytest.raises(CommandError, match=said):
        reproduce(replace(with_student, teacher=teacher))
    assert not with_student.out.exists()


def test_a_cross_encoder_is_refused_as_a_teacher(with_student, minilm_model, tmp_path):
    scores = make_cross_encoder(tmp_path / "scores", minilm_model)
    with pytest.raises(CommandError, match=r"--teacher .*scores: .* is not a bi-encoder"):
        reproduce(replace(with_student, teacher=str(scores)))
    assert not with_student.out.exists()


def test_what_is_wrong_with_a_student_is_refused_before_anything_is_made(with_student):
    [recipe] = with_student.distill
    written = recipe.read_text()
    for before, after, said in (
        ('"student"', '"tiny"', "two recipes are called tiny;"),
        ('"student"', '"bm25"', "two systems are called bm25"),
        ("pairs_max", "short_queries", r"data\.short_queries is no key of a recipe"),
        ("max_tokens = 32", "max_tokens = 64", r"recipe student: model\.max_tokens is 64"),
    ):
        recipe.write_text(written.replace(before, after))
        with pytest.raises(CommandError, match=said):
            reproduce(with_student)
    with pytest.raises(CommandError, match="--teacher is given without --distill"):
        reproduce(replace(with_student, distill=[], teacher="bundles/tiny"))
    assert not with_student.out.exists()


def test_what_is_no_other_collection_is_refused_before_anything_is_made(
    options, tiny_data, tmp_path
):
    (tmp_path / "empty").mkdir()
    shutil.copytree(tiny_data, tmp_path / "masked")
    for folders, said in (
        ([tmp_path / "absent"], r"absent: no corpus\.jsonl or .*: this is no BEIR folder"),
        ([tmp_path / "empty"], r"empty: no corpus\.jsonl or .*: this is no BEIR folder"),
        ([tmp_path / "masked"], "report would lie in report-masked, as does the report on masked"),
        ([tiny_data, tiny_data], f"report would lie in report-{tiny_data.name}, as does that on"),
        ([options.out / "data"], "it is what is trained and tuned on"),
    ):
        with pytest.raises(CommandError, match=said):
            reproduce(replace(options, judgements=folders))
    assert not options.out.exists()


def test_items_are_what_the_fields_say_in_the_data_set_and_in_the_bundles(
    options, stages, monkeypatch
):
    templates = []
    export = reproduced_runs.export

    def noting(given):
        templates.append(given.item_template)
        export(given)

    monkeypatch.setattr(reproduced_runs, "export", noting)
    reproduce(replace(options, item_fields=("title", "brand", "category")))
    described = json.loads((options.out / "data" / "dataset.json").read_text())
    assert described["item_fields"] == ["title", "brand", "category"]
    assert templates == ["{title} {brand}. {category}"] * 2
    with pytest.raises(
        CommandError, match="was made with --item-fields title,brand,category, not title; give"
    ):
        reproduce(options)


def test_fields_that_items_do_not_have_are_refused_before_anything_is_made(options):
    with pytest.raises(CommandError, match="item field is 'color'; allowed title, brand"):
        reproduce(replace(options, item_fields=("title", "color")))
    assert not options.out.exists()


def test_a_folder_that_says_nothing_of_fields_was_made_of_titles(options, stages):
    reproduce(options)
    path = options.out / "inputs.json"
    known = json.loads(path.read_text())
    assert known.pop("item_fields") == ["title"]
    path.write_text(json.dumps(known))
    reproduce(options)
    assert stages == EVERYTHING
    path.write_text(json.dumps(known))
    with pytest.raises(CommandError, match="was made with --item-fields title, not title,brand"):
        reproduce(replace(options, item_fields=("title", "brand")))
