"""What a training run needs to go on to the same numbers: written whole, found again."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rpc.terminal import CommandError
from training.memory import is_out_of_memory

CHECKPOINT_FILE = "checkpoint.pt"
BEST_FILE = "best.pt"
LOCK_FILE = ".lock"
_PARTS = {"run_id", "progress", "random", "state"}


@dataclass(slots=True)
class Progress:
    """Where a run is.

    Attributes:
        epoch, batch: 0-based, of the next batch.
        step: optimizer steps done.
        losses: (step, loss) of every optimizer step.
        evaluations: (step, what dev measured).
        best: the best of it so far; below 0 before the first.
        stale: evaluations since then.
        seconds: time spent, over all sittings.
        negatives: mined rows of items, (pairs, per_pair), of `mined_epoch`.
        mined_epoch: epoch they were mined before; below 0: never.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    losses: list[tuple[int, float]] = field(default_factory=list)
    evaluations: list[tuple[int, float]] = field(default_factory=list)
    best: float = -1.0
    stale: int = 0
    seconds: float = 0.0
    negatives: NDArray[np.int64] | None = None
    mined_epoch: int = -1


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other processes out of a run's folder, until this one ends, however it ends.

    Raises:
        CommandError: another process has it.
    """
    with (folder / LOCK_FILE).open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise CommandError(f"another process trains in {folder}; give another --out") from exc
        yield


def save_checkpoint(folder: Path, run_id: str, progress: Progress, parts: dict[str, Any]) -> None:
    """Write a checkpoint in place of the one before.

    Args:
        folder: the run's.
        run_id: what the run is made of; another run does not go on from here.
        progress: where it is.
        parts: name -> anything with state_dict().
    """
    state = {name: part.state_dict() for name, part in parts.items()}
    values = {name: getattr(progress, name) for name in Progress.__slots__}
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    random = {"cpu": torch.get_rng_state(), "cuda": cuda}
    _save(
        folder / CHECKPOINT_FILE,
        {"run_id": run_id, "progress": values, "random": random, "state": state},
    )


def load_checkpoint(folder: Path, run_id: str, parts: dict[str, Any]) -> Progress:
    """Restore every part and the random states; return where the run was. A new run starts at 0.

    Raises:
        CommandError: the folder holds another run, or its checkpoint cannot be read.
    """
    path = folder / CHECKPOINT_FILE
    if not path.is_file():
        return Progress()
    try:
        # Our own file: arrays and numbers beside the tensors.
        saved = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as exc:
        if is_out_of_memory(exc):
            raise
        raise CommandError(f"{path} cannot be read ({exc}); remove it to start again") from exc
    if not isinstance(saved, dict) or saved.keys() != _PARTS:
        raise CommandError(f"{path} is no checkpoint of a training run; remove it to start again")
    if saved["run_id"] != run_id:
        raise CommandError(
            f"{folder} holds a run of another recipe, model or data set; "
            "give another --out, or remove it to start again"
        )
    for name, part in parts.items():
        part.load_state_dict(saved["state"][name])
    torch.set_rng_state(saved["random"]["cpu"])
    if saved["random"]["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(saved["random"]["cuda"])
    return Progress(**saved["progress"])


def save_best(folder: Path, model: Any) -> None:
    """Keep the weights as the best so far."""
    _save(folder / BEST_FILE, model.state_dict())


def load_best(folder: Path, model: Any) -> None:
    """Put the best weights into the model.

    Raises:
        CommandError: they are not there, or cannot be read.
    """
    path = folder / BEST_FILE
    try:
        best = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:
        raise CommandError(
            f"{path} cannot be read ({exc}); remove {folder} to start again"
        ) from exc
    model.load_state_dict(best)


def _save(path: Path, content: Any) -> None:
    aside = path.with_name(f".{path.name}.writing")
    with aside.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
