from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from rpc.terminal import CommandError
from training.recipe import DistillRecipe, Recipe, RerankerRecipe, read_recipe, read_recipe_of
from training.train import main

RECIPES = sorted(Path("training/recipes").glob("*.toml"))
LEAST = """
name = "least"
[model]
base = "all-MiniLM-L6-v2"
[batches]
size = 8
[optimizer]
learning_rate = 2e-5
"""


def written(tmp_path, text):
    (tmp_path / "recipe.toml").write_text(text)
    return tmp_path / "recipe.toml"


KINDS = {"reranker": RerankerRecipe, "distill": DistillRecipe}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_that_is_shipped_can_be_read(path):
    kind = KINDS.get(path.stem.split("-")[0], Recipe)
    assert read_recipe_of(kind, path).name == path.stem


def test_the_paper_s_recipe_is_the_paper_s():
    recipe = read_recipe(Path("training/recipes/paper.toml"))
    assert recipe.model.base == "all-mpnet-base-v2"
    assert (recipe.loss.kind, recipe.loss.symmetric) == ("mnrl", False)
    assert (recipe.batches.size, recipe.batches.accumulation) == (8, 4)
    assert (recipe.optimizer.epochs, recipe.negatives.per_pair) == (1, 0)
    assert recipe.loss.matryoshka_dims == ()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("size = 8\nsizes = 9", "batches.sizes is no key of a recipe"),
        ("size = 1", "batches.size is 1: Input should be greater than or equal to 2"),
        ('size = "many"', "batches.size is 'many': Input should be a valid integer"),
        ("", "batches.size is missing"),
        ('size = 8\n[loss]\nkind = "triplet"', "loss.kind is 'triplet': Input should be 'mnrl'"),
        ("size = 8\n[loss]\ntemperature = 0.0", "loss.temperature is 0.0"),
        ("size = 8\n[run]\nseed = -1", "run.seed is -1"),
        (
            'size = 8\nmini_batch = 16\n[loss]\nkind = "cached_mnrl"',
            "batches.mini_batch is 16, more than batches.size 8",
        ),
        (
            "size = 8\n[negatives]\nper_pair = 3\nrank_first = 9\nrank_last = 10",
            "rank_first 9 to rank_last 10 has no room for 3 per_pair",
        ),
        (
            "size = 8\n[negatives]\nper_pair = 1\nfrom_epoch = 2",
            "negatives.from_epoch is 2, after the last of optimizer.epochs 1",
        ),
        ("size = 8\n[speed]\nhigh = true", "speed is no key of a recipe"),
    ],
)
def test_a_key_that_is_wrong_is_named(tmp_path, line, said):
    path = written(tmp_path, LEAST.replace("size = 8", line))
    with pytest.raises(CommandError) as refused:
        read_recipe(path)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("size = 8\nproduct_once = true", "batches.product_once is no key of a recipe"),
        ("size = 8\n[loss]\ntemperature = 0.1", "loss.temperature is no key of a recipe"),
        ("size = 8\n[negatives]\nper_pair = 0", "negatives.per_pair is 0"),
        ("size = 8\n[run]\ndev_depth = 101", "run.dev_depth is 101"),
    ],
)
def test_a_reranker_has_keys_of_its_own(tmp_path, line, said):
    path = written(tmp_path, LEAST.replace("size = 8", line))
    with pytest.raises(CommandError) as refused:
        read_recipe_of(RerankerRecipe, path)
    assert said in str(refused.value)


def test_a_query_encoder_is_trained_on_something(tmp_path):
    path = written(tmp_path, LEAST + "[data]\ntexts = []\n")
    with pytest.raises(CommandError, match=r"data\.texts is \[\]"):
        read_recipe_of(DistillRecipe, path)
    path = written(tmp_path, LEAST + '[data]\ntexts = ["brands"]\n')
    with pytest.raises(CommandError, match=r"data\.texts\.0 is 'brands'"):
        read_recipe_of(DistillRecipe, path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("epochs = true", "optimizer.epochs is True"),
        ('epochs = "3"', "optimizer.epochs is '3'"),
        ("gradient_norm_max = inf", "optimizer.gradient_norm_max is inf"),
        ('[loss]\nsymmetric = "no"', "loss.symmetric is 'no'"),
        ("[loss]\nmatryoshka_dims = [8.0]", "loss.matryoshka_dims.0 is 8.0"),
        ("[data]\npairs_max = 2.0", "data.pairs_max is 2.0"),
        ('[run]\nbf16 = "off"', "run.bf16 is 'off'"),
        (f"[run]\nseed = {2**65}", f"run.seed is {2**65}"),
    ],
)
def test_a_value_of_another_type_is_not_turned_into_the_one_that_is_meant(tmp_path, line, said):
    with pytest.raises(CommandError) as refused:
        read_recipe(written(tmp_path, LEAST + line))
    assert said in str(refused.value)
    text = LEAST.replace("2e-5", '"2e-5"')
    with pytest.raises(CommandError, match=r"optimizer\.learning_rate is '2e-5'"):
        read_recipe(written(tmp_path, text))


def test_a_whole_number_may_stand_where_any_number_may(tmp_path):
    text = LEAST + "weight_decay = 0\n[loss]\nmatryoshka_dims = [8, 4]\n"
    recipe = read_recipe(written(tmp_path, text))
    assert (recipe.optimizer.weight_decay, recipe.loss.matryoshka_dims) == (0.0, (8, 4))


def test_layers_are_frozen_from_below(tmp_path):
    text = LEAST.replace('L6-v2"', 'L6-v2"\nfreeze_layers = 2')
    with pytest.raises(CommandError, match="freeze_layers is 2, and below them freeze_token"):
        read_recipe(written(tmp_path, text))


def test_a_key_may_be_given_another_value_without_another_file(tmp_path):
    path = written(tmp_path, LEAST)
    changes = ("loss.temperature=0.02", 'name = "cold"', "batches.product_once=true")
    recipe = read_recipe(path, changes)
    assert (recipe.name, recipe.loss.temperature) == ("cold", 0.02)
    assert recipe.batches.product_once is True
    assert recipe.batches.size == 8
    assert read_recipe(path).loss.temperature == 0.05


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("loss.temperature", "write KEY=VALUE"),
        ("name=cold", "with the value as in TOML"),
        ("name.first=1", "name has no keys"),
        ("loss.heat=1", "loss.heat is no key of a recipe"),
        ('batches.size="8"', "batches.size is '8'"),
    ],
)
def test_a_change_that_is_impossible_is_refused(tmp_path, change, said):
    with pytest.raises(CommandError) as refused:
        read_recipe(written(tmp_path, LEAST), [change])
    assert said in str(refused.value)


def test_a_file_that_is_no_recipe_is_refused(tmp_path):
    with pytest.raises(CommandError, match="no such recipe"):
        read_recipe(tmp_path / "absent.toml")
    with pytest.raises(CommandError, match="is not TOML"):
        read_recipe(written(tmp_path, "size: 8"))


def test_a_wrong_recipe_is_refused_before_anything_else_is_looked_at(tmp_path):
    path = written(tmp_path, LEAST + "warm_up = 0.1\n")
    app = typer.Typer()
    app.command()(main)
    arguments = ["--data", str(tmp_path / "absent"), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, ["--recipe", str(path), *arguments])
    assert done.exit_code == 1
    assert done.stderr.endswith("optimizer.warm_up is no key of a recipe\n")
    assert not (tmp_path / "out").exists()
