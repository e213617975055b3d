import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from rpc.terminal import CommandError
from tests.training.small_reproductions import another, for_a_student, small_options
from training import reproduce as module
from training import reproduced_runs
from training.reproduce import reproduce


@pytest.fixture
def options(tiny_model, tmp_path):
    return small_options(tiny_model, tmp_path)


@pytest.fixture
def with_student(options, tiny_model, tmp_path):
    return for_a_student(options, tiny_model, tmp_path)


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


def test_another_number_of_pairs_is_said_to_be_what_differs(options, stages):
    reproduce(options)
    with pytest.raises(CommandError, match=r"was made with --pairs 50000, not 96; give that"):
        reproduce(replace(options, num_pairs=96))


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
