"""Fine-tune a bi-encoder on pairs of a data set, by a recipe.

`python -m training.train --recipe FILE --data DIR --out DIR`; the data set is that of
`training.dataset`. DIR then holds `model/` (the best weights on dev, a sentence-transformers
folder), `run.json`, `curves.png`. The same command goes on after an interruption, to the same
numbers.
"""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import orjson
import torch
import typer
from rich.console import Console

from rpc.cpu import cpu_features
from rpc.terminal import CommandError, errors_as_sentences, print_result
from training.beir import Collection, load_collection, narrow
from training.checkpoints import Progress, held, load_best, load_checkpoint
from training.curves import CURVES_FILE, Screen, draw_curves
from training.dataset import is_of_reviews
from training.examples import Examples, read_examples
from training.recipe import Recipe, read_recipe
from training.trainer import Trainer, num_steps, prepare, run

MODEL_FOLDER = "model"
RUN_FILE = "run.json"
DEV_SEED = 7
_PACKAGES = ("torch", "sentence-transformers", "transformers", "numpy", "faiss-cpu")


def train(recipe: Recipe, data: Path, out: Path) -> dict[str, Any]:
    """Train, write the model and return the run record.

    Raises:
        CommandError: the data set, the model or the folder does not fit, or memory ran out.
    """
    examples = read_examples(data, recipe.data.pairs_max, recipe.data.except_category)
    dev = load_collection(data, "dev")
    dev = narrow(dev, recipe.run.dev_items, recipe.run.dev_queries, DEV_SEED)
    out.mkdir(parents=True, exist_ok=True)
    with held(out), out_of_memory_as_sentence(recipe):
        return _train(recipe, examples, dev, out, same_title=is_of_reviews(data))


def _train(
    recipe: Recipe, examples: Examples, dev: Collection, out: Path, *, same_title: bool
) -> dict[str, Any]:
    trainer = prepare(recipe, examples, dev, out, same_title=same_title)
    progress = load_checkpoint(out, trainer.run_id, trainer.parts)
    screen = Screen(recipe.name, num_steps(recipe, trainer.examples), Console(stderr=True))
    with screen.shown():
        run(trainer, progress, screen)
    load_best(out, trainer.model)
    trainer.model.max_seq_length = trainer.whole_tokens
    trainer.model.save(str(out / MODEL_FOLDER))
    draw_curves(progress, out / CURVES_FILE, recipe.name)
    record = describe(trainer, progress)
    (out / RUN_FILE).write_bytes(orjson.dumps(record, option=orjson.OPT_INDENT_2) + b"\n")
    return record


@contextmanager
def out_of_memory_as_sentence(recipe: Recipe) -> Iterator[None]:
    """Say which key of the recipe to lower when memory runs out."""
    try:
        yield
    except (MemoryError, RuntimeError) as exc:
        if not is_out_of_memory(exc):
            raise
        raise CommandError(f"out of memory: {remedy(recipe)}") from exc


def is_out_of_memory(exc: BaseException) -> bool:
    """Tell it from other errors; torch has a type of its own for it on a GPU alone."""
    text = str(exc).lower()
    said = ("out of memory", "not enough memory", "can't allocate memory")
    return isinstance(exc, MemoryError) or any(words in text for words in said)


def remedy(recipe: Recipe) -> str:
    """Return which key to lower."""
    batches = recipe.batches
    if recipe.loss.kind == "cached_mnrl":
        return f"lower batches.mini_batch (now {batches.mini_batch}) or model.max_tokens"
    return (
        f'lower batches.size (now {batches.size}) or model.max_tokens, or set loss.kind = "cached_'
        'mnrl", which keeps the size and holds batches.mini_batch texts at a time'
    )


def describe(trainer: Trainer, progress: Progress) -> dict[str, Any]:
    """Return the run record."""
    on_gpu = trainer.device.type == "cuda"
    return {
        "recipe": trainer.recipe.model_dump(mode="json"),
        "run_id": trainer.run_id,
        "pairs": len(trainer.examples.queries),
        "items": len(trainer.examples.items),
        "steps": progress.step,
        "stopped_early": progress.epoch < trainer.recipe.optimizer.epochs,
        "seconds": round(progress.seconds, 1),
        "device": torch.cuda.get_device_name() if on_gpu else f"CPU, {platform.machine()}",
        "cpu_features": cpu_features(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()} | {n: version(n) for n in _PACKAGES},
        "dev": {
            "queries": len(trainer.dev.query_ids),
            "items": len(trainer.dev.item_ids),
            "seed": DEV_SEED,
        },
        "dev_recall_at_10": {
            "before": round(progress.evaluations[0][1], 4),
            "best": round(progress.best, 4),
        },
        "losses": [[step, round(loss, 5)] for step, loss in progress.losses],
        "evaluations": [[step, round(recall, 5)] for step, recall in progress.evaluations],
    }


def main(
    recipe: Annotated[Path, typer.Option(help="A recipe, as training/recipes/paper.toml.")],
    data: Annotated[Path, typer.Option(help="Folder that training.dataset wrote.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; the same goes on with it.")],
) -> None:
    """Fine-tune a bi-encoder by a recipe."""
    with errors_as_sentences():
        record = train(read_recipe(recipe), data, out)
        shown = ("pairs", "steps", "seconds", "device", "dev_recall_at_10")
        print_result({name: record[name] for name in shown} | {"model": str(out / MODEL_FOLDER)})


if __name__ == "__main__":
    typer.run(main)
