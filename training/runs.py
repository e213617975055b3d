"""A run's folder: what lies in it, and how it is filled."""

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch
from rich.console import Console

from rpc.cpu import cpu_features
from training.beir import Collection
from training.checkpoints import Progress, load_best, load_checkpoint
from training.curves import CURVES_FILE, Screen, draw_curves
from training.json_files import write_object
from training.trainer import Trainer, in_bf16, num_steps, run

MODEL_FOLDER = "model"
RUN_FILE = "run.json"
DEV_SEED = 7
_PACKAGES = ("torch", "sentence-transformers", "transformers", "numpy", "faiss-cpu")


def carry_out(trainer: Trainer, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Train from where the run is to its end, write the model and return the run record.

    Args:
        trainer: what to train.
        facts: what the record says of data and dev.

    Raises:
        CommandError: the folder holds another run, or the loss is no number any more.
    """
    task, out, name = trainer.task, trainer.out, trainer.recipe.name
    progress = load_checkpoint(out, trainer.run_id, trainer.parts)
    steps = num_steps(trainer.recipe, task)
    screen = Screen(name, steps, task.measure, Console(stderr=True))
    with screen.shown():
        run(trainer, progress, screen)
    load_best(out, task.model)
    task.finished().save_pretrained(str(out / MODEL_FOLDER))
    draw_curves(progress, out / CURVES_FILE, name, task.measure)
    record = describe(trainer, progress, facts, steps)
    write_object(out / RUN_FILE, record)
    return record


def describe(
    trainer: Trainer, progress: Progress, facts: Mapping[str, Any], steps: int
) -> dict[str, Any]:
    """Return the run record of a run that would take so many steps."""
    on_gpu = trainer.device.type == "cuda"
    return {
        "recipe": trainer.recipe.model_dump(mode="json"),
        "run_id": trainer.run_id,
        **facts,
        "steps": progress.step,
        "stopped_early": progress.step < steps,
        "seconds": round(progress.seconds, 1),
        "device": torch.cuda.get_device_name() if on_gpu else f"CPU, {platform.machine()}",
        "cpu_features": cpu_features(),
        "bf16": in_bf16(trainer.recipe, trainer.device),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version()} | {n: version(n) for n in _PACKAGES},
        measured_as(trainer.task.measure): {
            "before": round(progress.evaluations[0][1], 4),
            "best": round(progress.best, 4),
        },
        "losses": [[step, round(loss, 5)] for step, loss in progress.losses],
        "evaluations": [[step, round(found, 5)] for step, found in progress.evaluations],
    }


def measured_as(measure: str) -> str:
    """Return what the run record calls a measure of dev.

    >>> measured_as("recall@10")
    'dev_recall_at_10'
    """
    return f"dev_{measure.replace('@', '_at_')}"


def describe_dev(dev: Collection) -> dict[str, int]:
    """Return what the run record says of the collection that dev is measured on."""
    return {"queries": len(dev.query_ids), "items": len(dev.item_ids), "seed": DEV_SEED}
