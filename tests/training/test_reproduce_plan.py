import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from rpc.terminal import CommandError
from tests.training.small_models import make_cross_encoder
from tests.training.small_reproductions import another, for_a_student, small_options
from training.recipe import DistillRecipe, Recipe
from training.reproduce import reproduce
from training.reproduce_plan import read_plan
from training.reproduced_systems import students_of, systems_of
from training.system_notation import parse_systems


@pytest.fixture
def options(tiny_model, tmp_path):
    return small_options(tiny_model, tmp_path)


@pytest.fixture
def with_student(options, tiny_model, tmp_path):
    return for_a_student(options, tiny_model, tmp_path)


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


def test_fields_that_items_do_not_have_are_refused_before_anything_is_made(options):
    with pytest.raises(CommandError, match="item field is 'color'; allowed title, brand"):
        reproduce(replace(options, item_fields=("title", "color")))
    assert not options.out.exists()
