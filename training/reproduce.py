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

A stage is done while what it was made of is the same: a bundle is exported again for another model
or --quantize, a reranker trained again for another model of the first recipe. Other input files
are refused.
"""

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
import typer

from rpc.files import replace_file, sha256_of
from rpc.terminal import CommandError, errors_as_sentences, print_result
from training.bundle_files import ENCODER_FILE
from training.checkpoints import held
from training.curves import CURVES_FILE
from training.dataset import DATASET_FILE, DatasetOptions, make_dataset
from training.evaluate import EvaluateOptions, compare, recalls_of
from training.examples import read_examples
from training.export import export
from training.export_options import ExportOptions
from training.pairs import NUM_PAIRS
from training.recipe import AnyRecipe, Recipe, RerankerRecipe, read_recipe, read_recipe_of
from training.report import add_curves
from training.reproduced_systems import reranked_of, systems_of
from training.runs import MODEL_FOLDER, RUN_FILE
from training.system_notation import parse_systems
from training.train import train
from training.train_reranker import train_reranker

INPUTS_FILE = "inputs.json"
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
    recipes = [read_recipe(path) for path in options.recipes]
    reranker = read_recipe_of(RerankerRecipe, options.reranker) if options.reranker else None
    systems = systems_of(recipes, options.out)
    if reranker:
        systems += reranked_of(reranker, recipes[0], options.out)
    _require_names(recipes, reranker, systems)
    _require_same_inputs(options)
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


def _train_reranker(
    reranker: RerankerRecipe, first: Recipe, data: Path, options: ReproduceOptions
) -> None:
    """Train a cross-encoder on what a recipe's model finds, and write its bundle, once each."""
    run, of = options.out / "runs" / reranker.name, options.out / "runs" / first.name
    learned_from = _learned_from(reranker) | {"bi_encoder": _model_of(of)}
    known = _read(run / LEARNED_FROM_FILE)
    if known is not None and known != learned_from:
        # Its checkpoint would refuse to go on, and the model it learned from is gone.
        with held(run):
            shutil.rmtree(run)
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
    run = options.out / "runs" / recipe.name
    _learn(run, recipe, _learned_from(recipe), lambda: train(recipe, data, run))
    _export(run, recipe, recipe.loss.matryoshka_dims, options)


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
    recorded = _read(run / RUN_FILE)
    if (
        recorded is not None
        and recorded["recipe"] == recipe.model_dump(mode="json")
        and _read(run / LEARNED_FROM_FILE) == learned_from
    ):
        return
    if not run.exists():
        _write(run / LEARNED_FROM_FILE, learned_from)
    train_it()
    # A folder that was there before says only now that it fits: train_it did not refuse it.
    _write(run / LEARNED_FROM_FILE, learned_from)


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
    if has_bundle and _read(record) == made_of:
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
    _write(record, made_of)


def _learned_from(recipe: AnyRecipe) -> dict[str, Any]:
    """Return what is known of the model that a recipe starts from: its weights, if in a folder."""
    return {"base": _weights_of(Path(recipe.model.base))}


def _model_of(run: Path) -> dict[str, Any]:
    """Return what tells the model of a finished run from any other."""
    recorded = _read(run / RUN_FILE)
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


def _require_same_inputs(options: ReproduceOptions) -> None:
    """Refuse a folder that holds what was made of other files, or of other content of theirs.

    Raises:
        CommandError: it does, or a file is missing.
    """
    reviews, items = (
        [_file_facts(path) for path in paths] for paths in (options.reviews, options.items)
    )
    inputs = {"reviews": reviews, "items": items, "pairs": options.num_pairs}
    path = options.out / INPUTS_FILE
    known = _read(path)
    if known is not None and known != inputs:
        # Earlier versions kept the path alone, and nothing to compare a file's content with.
        before = {
            each["path"]: each
            for each in (*known["reviews"], *known["items"])
            if isinstance(each, dict)
        }
        for now in (*reviews, *items):
            if before.get(now["path"], now) != now:
                raise CommandError(
                    f"{now['path']} has changed since {options.out} was made of it; give another "
                    "--out"
                )
        raise CommandError(f"{options.out} holds what was made of other files; give another --out")
    _write(path, inputs)


def _file_facts(path: Path) -> dict[str, Any]:
    """Return where a file is and what tells its content from any other."""
    if not path.is_file():
        raise CommandError(f"{path}: no such file")
    return {
        "path": str(path.resolve()),
        "bytes": path.stat().st_size,
        "sha256": sha256_of(path),
    }


def _read(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file; None where there is none."""
    if not path.is_file():
        return None
    found: dict[str, Any] = orjson.loads(path.read_bytes())
    return found


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n")


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
