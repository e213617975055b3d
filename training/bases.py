"""The models that the recipes of one command start from, looked at before anything is trained.

A base `runs/NAME/model` is what the recipe called NAME leaves in the command's own folder, where
that recipe stands before it; else it is a folder as any other.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from rpc.terminal import CommandError
from training.losses import dims_of
from training.model_source import find_model
from training.recipe import AnyRecipe, Recipe, RerankerRecipe
from training.runs import MODEL_FOLDER
from training.system_notation import require_plain
from training.trainer import freeze, shorten

RUNS_FOLDER = "runs"
BUNDLES_FOLDER = "bundles"
R = TypeVar("R", bound=AnyRecipe)


def model_in(out: Path, name: str) -> Path:
    """Return where the model lies that a recipe of this name leaves."""
    return out / RUNS_FOLDER / name / MODEL_FOLDER


def bundle_in(out: Path, name: str) -> Path:
    """Return where the bundle of a recipe's model lies."""
    return out / BUNDLES_FOLDER / name


def is_made_in(out: Path, base: str) -> bool:
    """Tell whether a base is the model of a run in this folder."""
    return Path(base).is_relative_to(out / RUNS_FOLDER)


def with_base_in(recipe: R, out: Path, before: Sequence[AnyRecipe]) -> R:
    """Return a recipe whose base is where the recipe that it names leaves its model."""
    for each in before:
        if recipe.model.base.rstrip("/") == f"{RUNS_FOLDER}/{each.name}/{MODEL_FOLDER}":
            return with_base(recipe, str(model_in(out, each.name)))
    return recipe


def named_in(teacher: str, out: Path, recipes: Sequence[AnyRecipe]) -> str:
    """Return a teacher, where it names a recipe's model or bundle, as it lies in the folder.

    >>> recipe = Recipe.model_validate({
    ...     "name": "best", "model": {"base": "minilm"}, "batches": {"size": 8},
    ...     "optimizer": {"learning_rate": 0.1}})
    >>> named_in("bundles/best/", Path("o"), [recipe]), named_in("other", Path("o"), [recipe])
    ('o/bundles/best', 'other')
    """
    for name in (each.name for each in recipes):
        for made in (model_in(out, name), bundle_in(out, name)):
            if Path(teacher) in (made, made.relative_to(out)):
                return str(made)
    return teacher.rstrip("/") or teacher


def with_base(recipe: R, base: str) -> R:
    """Return a recipe that starts from another model."""
    model = recipe.model.model_copy(update={"base": base})
    return recipe.model_copy(update={"model": model})


def require_bases(recipes: Sequence[AnyRecipe], out: Path) -> None:
    """Refuse a recipe whose base is not there, or that does not fit it.

    A model that is still to be made has the layers and dimensions of the one that it is made of.

    Raises:
        CommandError: there is one.
    """
    made_of: dict[str, str] = {}
    for recipe in recipes:
        base = made_of.get(recipe.model.base, recipe.model.base)
        made_of[str(model_in(out, recipe.name))] = base
        try:
            require_plain("model.base", base)
            _require_fits(with_base(recipe, base))
        except CommandError as exc:
            raise CommandError(f"recipe {recipe.name}: {exc}") from exc


def _require_fits(recipe: AnyRecipe) -> None:
    """Load a recipe's base, and do with it what is done before the first step."""
    from training import torch_encoder, torch_reranker

    source = find_model(recipe.model.base)
    model: Any
    if isinstance(recipe, RerankerRecipe):
        model = torch_reranker.load_model(source, new_head=True)
    else:
        model = torch_encoder.load_model(source)
    shorten(model, recipe)
    freeze(model, recipe)
    if isinstance(recipe, Recipe):
        dims_of(model, recipe)
