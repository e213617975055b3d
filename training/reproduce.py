"""From review files to a table and a bundle in one command; every stage goes on where it was.

`python -m training.reproduce --reviews FILE --items FILE --recipe RECIPE --out DIR` makes

    DIR/data/            the data set (training.dataset)
    DIR/runs/NAME/       a run for each recipe: model, run.json, curves.png (training.train)
    DIR/bundles/NAME/    its encoder bundle (training.export), with the weights to fuse it with BM25
    DIR/report/          all of them against BM25 and the models they started from
                         (training.evaluate), and in DIR/report-masked/ without the title's words

With `--reranker RECIPE` a cross-encoder is trained on what the first recipe's model finds
(training.train_reranker), exported, and measured at three depths.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
import typer

from rpc.terminal import CommandError, errors_as_sentences, print_result
from training.dataset import DATASET_FILE, DatasetOptions, make_dataset
from training.evaluate import EvaluateOptions, compare
from training.export import export
from training.export_options import ExportOptions
from training.pairs import NUM_PAIRS
from training.recipe import AnyRecipe, Recipe, RerankerRecipe, read_recipe, read_recipe_of
from training.runs import MODEL_FOLDER, RUN_FILE
from training.systems import TUNED_ON
from training.train import train
from training.train_reranker import train_reranker

INPUTS_FILE = "inputs.json"
RERANK_DEPTHS = (20, 50, 100)


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


def reproduce(options: ReproduceOptions) -> dict[str, Any]:
    """Run every stage that is not done yet; return recall@10 of every system.

    Raises:
        CommandError: a file, a recipe or what lies in the folder does not fit.
    """
    recipes = [read_recipe(path) for path in options.recipes]
    reranker = read_recipe_of(RerankerRecipe, options.reranker) if options.reranker else None
    _require_same_inputs(options)
    data = options.out / "data"
    if not (data / DATASET_FILE).is_file():
        make_dataset(
            DatasetOptions(options.reviews, options.items, data, num_pairs=options.num_pairs)
        )
    for recipe in recipes:
        _train_and_export(recipe, data, options)
    systems = systems_of(recipes, options.out)
    if reranker:
        _train_reranker(reranker, recipes[0], data, options)
        systems += reranked_of(reranker, recipes[0], options.out)
    recalls = {}
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
        recalls[folder] = {
            name: round(found["measures"][TUNED_ON]["mean"], 4)
            for name, found in results["systems"].items()
        }
    return recalls


def systems_of(recipes: Sequence[Recipe], out: Path) -> list[str]:
    """Return what is compared, as `training.systems` reads it; the first is the baseline.

    >>> recipe = Recipe.model_validate({
    ...     "name": "best", "model": {"base": "minilm"}, "loss": {"matryoshka_dims": [128]},
    ...     "batches": {"size": 8}, "optimizer": {"learning_rate": 0.1}})
    >>> for system in systems_of([recipe], Path("o")): print(system)
    zero-shot-minilm=minilm
    bm25
    best=o/runs/best/model
    best-128=o/runs/best/model?dim=128
    best-hnsw=o/runs/best/model?ef_search=64
    best-bundle=o/bundles/best
    best-rrf=rrf:best-bundle+bm25
    best-weighted=weighted:best-bundle+bm25
    """
    bases = dict.fromkeys(recipe.model.base for recipe in recipes)
    systems = [f"zero-shot-{base.rstrip('/').rsplit('/', 1)[-1]}={base}" for base in bases]
    systems.append("bm25")
    for recipe in recipes:
        name, model = recipe.name, out / "runs" / recipe.name / MODEL_FOLDER
        systems.append(f"{name}={model}")
        systems += [f"{name}-{d}={model}?dim={d}" for d in recipe.loss.matryoshka_dims]
        systems.append(f"{name}-hnsw={model}?ef_search=64")
        systems.append(f"{name}-bundle={out / 'bundles' / name}")
        systems += [f"{name}-{way}={way}:{name}-bundle+bm25" for way in ("rrf", "weighted")]
    return systems


def reranked_of(reranker: RerankerRecipe, first: Recipe, out: Path) -> list[str]:
    """Return the systems that rerank a recipe's model, as `training.system_notation` reads them."""
    bundle = out / "bundles" / reranker.name
    return [
        f"{first.name}-rerank-{depth}=rerank:{first.name}-bundle+{bundle}?depth={depth}"
        for depth in RERANK_DEPTHS
    ]


def _train_reranker(
    reranker: RerankerRecipe, first: Recipe, data: Path, options: ReproduceOptions
) -> None:
    """Train a cross-encoder on what a recipe's model finds, and write its bundle, once each."""
    run, bundle = options.out / "runs" / reranker.name, options.out / "bundles" / reranker.name
    if not _is_done(run, reranker):
        model = options.out / "runs" / first.name / MODEL_FOLDER
        train_reranker(reranker, data, str(model), run, options.out / "embeddings")
    if not (bundle / "encoder.json").is_file():
        export(
            ExportOptions(
                model=str(run / MODEL_FOLDER),
                out=bundle,
                quantization=options.quantization,
                name=reranker.name,
            )
        )


def _train_and_export(recipe: Recipe, data: Path, options: ReproduceOptions) -> None:
    """Train by a recipe, unless that is done, and write the bundle of its model, likewise."""
    run, bundle = options.out / "runs" / recipe.name, options.out / "bundles" / recipe.name
    if not _is_done(run, recipe):
        train(recipe, data, run)
    if not (bundle / "encoder.json").is_file():
        export(
            ExportOptions(
                model=str(run / MODEL_FOLDER),
                out=bundle,
                quantization=options.quantization,
                name=recipe.name,
                matryoshka_dims=recipe.loss.matryoshka_dims,
            )
        )


def _is_done(run: Path, recipe: AnyRecipe) -> bool:
    """Tell whether the run's record is there and is of this very recipe."""
    path = run / RUN_FILE
    if not path.is_file():
        return False
    recorded: dict[str, Any] = orjson.loads(path.read_bytes())
    return bool(recorded["recipe"] == recipe.model_dump(mode="json"))


def _require_same_inputs(options: ReproduceOptions) -> None:
    """Refuse a folder that holds what was made of other files."""
    inputs = {
        "reviews": [str(path.resolve()) for path in options.reviews],
        "items": [str(path.resolve()) for path in options.items],
        "pairs": options.num_pairs,
    }
    path = options.out / INPUTS_FILE
    if path.is_file() and orjson.loads(path.read_bytes()) != inputs:
        raise CommandError(f"{options.out} holds what was made of other files; give another --out")
    options.out.mkdir(parents=True, exist_ok=True)
    path.write_bytes(orjson.dumps(inputs, option=orjson.OPT_INDENT_2) + b"\n")


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
