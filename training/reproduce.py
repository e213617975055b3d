"""From review files to a table and a bundle in one command; every stage goes on where it was.

`python -m training.reproduce --reviews FILE --items FILE --recipe RECIPE --out DIR` makes

    DIR/data/            the data set (training.dataset)
    DIR/runs/NAME/       a run for each recipe: model, run.json, curves.png (training.train)
    DIR/bundles/NAME/    its encoder bundle (training.export), with the weights to fuse it with BM25
    DIR/report/          all of them against BM25 and the models they started from
                         (training.evaluate), with the curves of the runs; and in
                         DIR/report-masked/ without the title's words

With `--reranker RECIPE` a cross-encoder is trained on what the first recipe's model finds
(training.train_reranker), exported, and measured at three depths.

A recipe may start from what one before it leaves: its base is then `runs/NAME/model`.

A stage is done while what it was made of is the same: a bundle is exported again for another model
or --quantize, a run started again for another model of the recipe that it learns from. Other input
files are refused, and so is, before all, a recipe that its base cannot do.
"""

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from rpc.files import sha256_of
from rpc.terminal import CommandError, errors_as_sentences, print_result
from training.bases import RUNS_FOLDER, is_made_in, require_bases, with_base_in
from training.bundle_files import ENCODER_FILE
from training.checkpoints import held
from training.curves import CURVES_FILE
from training.dataset import DATASET_FILE, DatasetOptions, make_dataset
from training.evaluate import EvaluateOptions, compare, recalls_of
from training.examples import read_examples
from training.export import export
from training.export_options import ExportOptions
from training.inputs import require_same_inputs
from training.json_files import read_object, write_object
from training.pairs import NUM_PAIRS
from training.recipe import AnyRecipe, Recipe, RerankerRecipe, read_recipe, read_recipe_of
from training.report import add_curves
from training.reproduced_systems import reranked_of, systems_of
from training.runs import MODEL_FOLDER, RUN_FILE
from training.system_notation import parse_systems, require_plain
from training.train import train
from training.train_reranker import train_reranker

LEARNED_FROM_FILE = "learned_from.json"


@dataclass(frozen=True, slots=True)
class ReproduceOptions:
    """What to learn from, by which recipes, and what to export."""

    reviews: Sequence[Path]
    items: Sequence[Path]
    recipes: Sequence[Path]
    out: Path
    num_pairs: int = NUM_PAIRS
    reranker: Path | None = None
    quantization: Literal["int8", "none"] = "int8"


def reproduce(options: ReproduceOptions) -> dict[str, dict[str, float | None]]:
    """Run every stage that is not done yet; return recall@10 of every system.

    Raises:
        CommandError: a file, a recipe or what lies in the folder does not fit.
    """
    recipes, reranker = _read_recipes(options)
    systems = systems_of(recipes, options.out)
    if reranker:
        systems += reranked_of(reranker, recipes[0], options.out)
    _require_names(recipes, reranker, systems)
    require_bases(recipes, reranker, options.out)
    require_same_inputs(options.out, options.reviews, options.items, options.num_pairs)
    data = options.out / "data"
    if not (data / DATASET_FILE).is_file():
        make_dataset(
            DatasetOptions(options.reviews, options.items, data, num_pairs=options.num_pairs)
        )
    _require_categories([*recipes, *([reranker] if reranker else [])], data)
    for recipe in recipes:
        _train_and_export(recipe, data, options)
    if reranker:
        _train_reranker(reranker, recipes[0], data, options)
    recalls: dict[str, dict[str, float | None]] = {}
    for folder, masked in (("report", False), ("report-masked", True)):
        results = compare(
            EvaluateOptions(
                data,
                systems,
                options.out / folder,
                options.out / "embeddings",
                masked=masked,
                record=not masked,
            )
        )
        recalls[folder] = recalls_of(results)
    runs = [options.out / "runs" / each.name for each in (*recipes, *filter(None, [reranker]))]
    add_curves(options.out / "report", {run.name: run / CURVES_FILE for run in runs})
    return recalls


def _read_recipes(options: ReproduceOptions) -> tuple[list[Recipe], RerankerRecipe | None]:
    """Return the recipes, with what they start from found in the folder where they name it so."""
    require_plain("--out", str(options.out))
    recipes: list[Recipe] = []
    for path in options.recipes:
        recipes.append(with_base_in(read_recipe(path), options.out, recipes))
    if options.reranker is None:
        return recipes, None
    reranker = read_recipe_of(RerankerRecipe, options.reranker)
    return recipes, with_base_in(reranker, options.out, recipes)


def _train_reranker(
    reranker: RerankerRecipe, first: Recipe, data: Path, options: ReproduceOptions
) -> None:
    """Train a cross-encoder on what a recipe's model finds, and write its bundle, once each."""
    runs = options.out / RUNS_FOLDER
    run, of = runs / reranker.name, runs / first.name
    learned_from = _learned_from(reranker) | {"bi_encoder": _model_of(of)}
    _forget_what_learned_from_another(run, learned_from)
    _learn(
        run,
        reranker,
        learned_from,
        lambda: train_reranker(
            reranker, data, str(of / MODEL_FOLDER), run, options.out / "embeddings"
        ),
    )
    _export(run, reranker, (), options)


def _train_and_export(recipe: Recipe, data: Path, options: ReproduceOptions) -> None:
    """Train by a recipe, unless that is done, and write the bundle of its model, likewise."""
    run, learned_from = options.out / RUNS_FOLDER / recipe.name, _learned_from(recipe)
    if is_made_in(options.out, recipe.model.base):
        _forget_what_learned_from_another(run, learned_from)
    _learn(run, recipe, learned_from, lambda: train(recipe, data, run))
    _export(run, recipe, recipe.loss.matryoshka_dims, options)


def _forget_what_learned_from_another(run: Path, learned_from: Mapping[str, Any]) -> None:
    """Remove a run that learned from a model of this folder which has been made again since."""
    known = read_object(run / LEARNED_FROM_FILE)
    if known is not None and known != learned_from:
        # Its checkpoint would refuse to go on, and the model it learned from is gone.
        with held(run):
            shutil.rmtree(run)


def _learn(
    run: Path, recipe: AnyRecipe, learned_from: Mapping[str, Any], train_it: Callable[[], Any]
) -> None:
    """Train, unless the run's record is there, of this very recipe and what it learns from.

    Args:
        run: the run's folder.
        recipe: how to train.
        learned_from: the models it learns from.
        train_it: trains, or goes on; it refuses a folder whose checkpoint is of anything else.
    """
    recorded = read_object(run / RUN_FILE)
    if (
        recorded is not None
        and recorded.get("recipe") == recipe.model_dump(mode="json")
        and read_object(run / LEARNED_FROM_FILE) == learned_from
    ):
        return
    if not run.exists():
        write_object(run / LEARNED_FROM_FILE, learned_from)
    train_it()
    # A folder that was there before says only now that it fits: train_it did not refuse it.
    write_object(run / LEARNED_FROM_FILE, learned_from)


def _export(
    run: Path, recipe: AnyRecipe, matryoshka_dims: tuple[int, ...], options: ReproduceOptions
) -> None:
    """Write the bundle of a run's model, unless there is one of this very model and options."""
    bundle = options.out / "bundles" / recipe.name
    record = bundle.with_name(f"{recipe.name}.json")
    made_of = _model_of(run) | {
        "quantization": options.quantization,
        "matryoshka_dims": list(matryoshka_dims),
    }
    has_bundle = (bundle / ENCODER_FILE).is_file()
    if has_bundle and read_object(record) == made_of:
        return
    # The record goes first: whatever is interrupted below, no bundle is taken for another.
    record.unlink(missing_ok=True)
    if has_bundle:
        shutil.rmtree(bundle)
    export(
        ExportOptions(
            model=str(run / MODEL_FOLDER),
            out=bundle,
            quantization=options.quantization,
            name=recipe.name,
            matryoshka_dims=matryoshka_dims,
        )
    )
    write_object(record, made_of)


def _learned_from(recipe: AnyRecipe) -> dict[str, Any]:
    """Return what is known of the model that a recipe starts from: its weights, if in a folder."""
    return {"base": _weights_of(Path(recipe.model.base))}


def _model_of(run: Path) -> dict[str, Any]:
    """Return what tells the model of a finished run from any other."""
    recorded = read_object(run / RUN_FILE)
    assert recorded is not None
    # Another machine comes to other weights by the same run_id.
    return {"run_id": recorded["run_id"], "weights": _weights_of(run / MODEL_FOLDER)}


def _weights_of(model: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of weights in a model's folder, by its path there."""
    files = sorted(each for kind in ("*.safetensors", "*.bin") for each in model.rglob(kind))
    return {str(each.relative_to(model)): sha256_of(each) for each in files}


def _require_names(
    recipes: Sequence[Recipe], reranker: RerankerRecipe | None, systems: Sequence[str]
) -> None:
    """Refuse recipes that share a folder, and systems that the comparison would refuse.

    Raises:
        CommandError: two have one name.
    """
    names = Counter([each.name for each in recipes] + ([reranker.name] if reranker else []))
    if twice := [name for name, count in names.items() if count > 1]:
        raise CommandError(f"two recipes are called {twice[0]}; give each a name of its own")
    parse_systems(systems)


def _require_categories(recipes: Sequence[AnyRecipe], data: Path) -> None:
    """Refuse a category to leave out that no pair has, before hours go into another recipe."""
    for section in (recipe.data for recipe in recipes):
        if section.except_category is not None:
            read_examples(data, section.pairs_max, section.except_category)


def main(
    reviews: Annotated[list[Path], typer.Option(help="Review files, .jsonl or .jsonl.gz.")],
    items: Annotated[list[Path], typer.Option(help="Item files, .jsonl or .jsonl.gz.")],
    recipe: Annotated[list[Path], typer.Option(help="Recipes, as training/recipes/paper.toml.")],
    out: Annotated[Path, typer.Option(help="Folder of all results; the same goes on with it.")],
    pairs: Annotated[int, typer.Option(min=1, help="The most pairs to choose.")] = NUM_PAIRS,
    quantize: Annotated[
        Literal["int8", "none"], typer.Option(help="Weights in the bundles.")
    ] = "int8",
    reranker: Annotated[
        Path | None, typer.Option(help="A recipe, as training/recipes/reranker-minilm.toml.")
    ] = None,
) -> None:
    """Make a data set, train, export and compare."""
    logging.getLogger("vitrine").setLevel(logging.INFO)
    with errors_as_sentences():
        recalls = reproduce(
            ReproduceOptions(reviews, items, recipe, out, pairs, reranker, quantize)
        )
        report = str(out / "report" / "report.md")
        print_result({"report": report, "recall_at_10": recalls["report"]})


if __name__ == "__main__":
    typer.run(main)
