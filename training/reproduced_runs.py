"""The runs and bundles of `training.reproduce`: each made once, and again of another beginning."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rpc.files import sha256_of
from training.bases import RUNS_FOLDER, bundle_in, is_made_in
from training.bundle_files import ENCODER_FILE, read_description
from training.checkpoints import held
from training.dataset import template_of
from training.distill import distill
from training.export import export
from training.export_options import ExportOptions
from training.json_files import read_object, write_object
from training.recipe import AnyRecipe, DistillRecipe, Recipe, RerankerRecipe
from training.reproduce_plan import ReproduceOptions
from training.runs import MODEL_FOLDER, RUN_FILE
from training.train import train
from training.train_reranker import train_reranker

LEARNED_FROM_FILE = "learned_from.json"


def make_bi_encoder(recipe: Recipe, options: ReproduceOptions) -> None:
    """Train by a recipe, unless that is done, and write the bundle of its model, likewise."""
    run, learned_from = options.out / RUNS_FOLDER / recipe.name, _learned_from(recipe)
    if is_made_in(options.out, recipe.model.base):
        _forget_what_learned_from_another(run, learned_from)
    _learn(run, recipe, learned_from, lambda: train(recipe, options.data, run))
    _export(run, recipe, recipe.loss.matryoshka_dims, options)


def make_student(recipe: DistillRecipe, teacher: str, options: ReproduceOptions) -> None:
    """Train a query encoder in the space of another, and write its bundle, once each."""
    run = options.out / RUNS_FOLDER / recipe.name
    learned_from = _learned_from(recipe) | {"teacher": _encoder_of(teacher)}
    _forget_what_learned_from_another(run, learned_from)
    _learn(
        run,
        recipe,
        learned_from,
        lambda: distill(recipe, options.data, teacher, run, options.embeddings),
    )
    _export(run, recipe, (), options)


def make_reranker(reranker: RerankerRecipe, first: Recipe, options: ReproduceOptions) -> None:
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
            reranker, options.data, str(of / MODEL_FOLDER), run, options.embeddings
        ),
    )
    _export(run, reranker, (), options)


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
    bundle = bundle_in(options.out, recipe.name)
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
            item_template=template_of(options.item_fields),
        )
    )
    write_object(record, made_of)


def _learned_from(recipe: AnyRecipe) -> dict[str, Any]:
    """Return what is known of the model that a recipe starts from: its weights, if in a folder."""
    return {"base": _weights_of(Path(recipe.model.base))}


def _encoder_of(teacher: str) -> dict[str, Any]:
    """Return what tells a teacher from any other: its vectors follow from that."""
    folder = Path(teacher).expanduser()
    if (folder / ENCODER_FILE).is_file():
        return {"encoder_id": read_description(folder)["encoder_id"]}
    return {"weights": _weights_of(folder)} if folder.is_dir() else {"id": teacher}


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
