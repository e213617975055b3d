"""A training run, step by step: it evaluates itself, keeps the best, and goes on where it was.

What is learned is a `Task`'s: a bi-encoder (`training.bi_encoder_task`), a reranker
(`training.reranker_task`) or a query encoder (`training.distill_task`).
"""

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from rpc.terminal import CommandError
from training.batches import Batch
from training.checkpoints import Progress, save_best, save_checkpoint
from training.curves import CURVES_FILE, Screen, draw_curves
from training.recipe import AnyRecipe, Recipe
from training.torch_encoder import max_tokens_of

Rows = NDArray[np.int64]

# What a CPU has that multiplies bfloat16 sooner than float32, as torch calls it.
_CPU_BF16 = ("amx_bf16", "avx512_bf16")


class Task(Protocol):
    """What is learned: a model, what a batch costs, and what dev is worth.

    Attributes:
        model: a sentence-transformers model.
        measure: what dev is measured by, as "recall@10"; larger is better.
        fingerprint: stands for all of its data.
    """

    model: Any
    measure: str
    fingerprint: str

    def batches(self, epoch: int) -> list[Batch]:
        """Return the batches of an epoch, 0-based; the same each time."""
        ...

    def loss(self, batch: Batch, negatives: Rows | None) -> torch.Tensor:
        """Return a batch's loss."""
        ...

    def measure_dev(self) -> float:
        """Return what the model is worth on dev."""
        ...

    def mine(self, epoch: int, *, known: bool) -> Rows | None:
        """Return hard negatives, rows of items of shape (pairs, per_pair), before an epoch.

        Args:
            epoch: 1-based.
            known: some were mined before.

        Returns:
            None where the epoch goes on with those, or without any.
        """
        ...

    def finished(self) -> Any:
        """Return the model as it is written, once it has its best weights."""
        ...


@dataclass(slots=True)
class Trainer:
    """All that takes part in a run.

    Attributes:
        recipe: how to train.
        task: what is learned.
        trained: the weights that move.
        optimizer, schedule: what moves them.
        device: where.
        out: the run's folder.
        run_id: stands for all that the run's numbers follow from.
    """

    recipe: AnyRecipe
    task: Task
    trained: Sequence[torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    device: torch.device
    out: Path
    run_id: str

    @property
    def parts(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"model": self.task.model, "optimizer": self.optimizer, "schedule": self.schedule}


def prepare(recipe: AnyRecipe, task: Task, out: Path) -> Trainer:
    """Put together what trains a task's model."""
    trained = [weight for weight in task.model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(
        trained,
        lr=recipe.optimizer.learning_rate,
        weight_decay=recipe.optimizer.weight_decay,
    )
    steps = num_steps(recipe, task)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate_at(step, steps, recipe.optimizer.warmup)
    )
    device = next(task.model.parameters()).device
    return Trainer(recipe, task, trained, optimizer, schedule, device, out, run_id_of(recipe, task))


def best_device() -> torch.device:
    """Return a GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def shorten(model: Any, recipe: AnyRecipe) -> int:
    """Cut texts as the recipe says while training; return the model's own limit.

    Raises:
        CommandError: the model does not take so many tokens.
    """
    whole_tokens = max_tokens_of(model)
    wanted = recipe.model.max_tokens or whole_tokens
    if wanted > whole_tokens:
        raise CommandError(
            f"model.max_tokens is {wanted}; allowed 8..{whole_tokens}, the most that "
            f"{recipe.model.base} takes"
        )
    model.max_seq_length = wanted
    return whole_tokens


def freeze(model: Any, recipe: AnyRecipe) -> None:
    """Leave the weights alone that the recipe says.

    Raises:
        CommandError: all layers would be, or the model's layers are not known.
    """
    backbone = model[0].model.base_model
    if recipe.model.freeze_token_embeddings:
        backbone.get_input_embeddings().weight.requires_grad_(False)
    if not (frozen := recipe.model.freeze_layers):
        return
    layers: Any = getattr(getattr(backbone, "encoder", None), "layer", ())
    if frozen >= len(layers):
        raise CommandError(
            f"model.freeze_layers is {frozen}; allowed 0..{max(0, len(layers) - 1)}: "
            f"{recipe.model.base} has {len(layers)} layers that can be told apart"
        )
    # All of the encoder: MPNet's layers share a bias by position, which stands beside them.
    backbone.embeddings.requires_grad_(False)
    backbone.encoder.requires_grad_(False)
    layers[frozen:].requires_grad_(True)


def run(trainer: Trainer, progress: Progress, screen: Screen) -> None:
    """Go through the epochs from where the run is, and leave a checkpoint after each."""
    recipe = trainer.recipe
    if not progress.evaluations:
        evaluate_dev(trainer, progress, screen)
    while progress.epoch < recipe.optimizer.epochs and not is_stale(recipe, progress):
        refresh_negatives(trainer, progress)
        run_epoch(trainer, progress, screen)
        save_checkpoint(trainer.out, trainer.run_id, progress, trainer.parts)


def run_epoch(trainer: Trainer, progress: Progress, screen: Screen) -> None:
    """Take an epoch's steps from where the run is; evaluate, keep the best, checkpoint."""
    recipe = trainer.recipe
    batches = trainer.task.batches(progress.epoch)
    evaluated_at = evaluation_steps(recipe, len(batches))
    while progress.batch < len(batches):
        step = batches[progress.batch : progress.batch + recipe.batches.accumulation]
        take_step(trainer, progress, step)
        screen.update(progress)
        if -(-progress.batch // recipe.batches.accumulation) in evaluated_at:
            evaluate_dev(trainer, progress, screen)
            if is_stale(recipe, progress):
                return
        if progress.step % recipe.run.checkpoint_steps == 0:
            save_checkpoint(trainer.out, trainer.run_id, progress, trainer.parts)
    progress.epoch, progress.batch = progress.epoch + 1, 0


def take_step(trainer: Trainer, progress: Progress, batches: Sequence[Batch]) -> None:
    """Move the weights once, by the mean gradient of some batches.

    Raises:
        CommandError: the loss is no number any more.
    """
    started_s = time.monotonic()
    trainer.task.model.train()
    trainer.optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for batch in batches:
        with precision(trainer.recipe, trainer.device):
            loss = trainer.task.loss(batch, progress.negatives) / len(batches)
        with backward_precision(trainer.recipe, trainer.device):
            torch.autograd.backward(loss)
        total += float(loss.detach())
    if not math.isfinite(total):
        raise CommandError(
            f"the loss is {total} at step {progress.step + 1}; lower optimizer.learning_rate (now "
            f"{trainer.recipe.optimizer.learning_rate:g}), or set run.bf16 = false"
        )
    torch.nn.utils.clip_grad_norm_(trainer.trained, trainer.recipe.optimizer.gradient_norm_max)
    trainer.optimizer.step()
    trainer.schedule.step()
    progress.batch += len(batches)
    progress.step += 1
    progress.losses.append((progress.step, total))
    progress.seconds += time.monotonic() - started_s


def evaluate_dev(trainer: Trainer, progress: Progress, screen: Screen) -> None:
    """Measure dev, and keep the weights when they are the best so far."""
    started_s = time.monotonic()
    trainer.task.model.eval()
    found = trainer.task.measure_dev()  # in float32, as the model will be used
    progress.evaluations.append((progress.step, found))
    if found > progress.best:
        progress.best, progress.stale = found, 0
        save_best(trainer.out, trainer.task.model)
    else:
        progress.stale += 1
    progress.seconds += time.monotonic() - started_s
    if not progress.stale:
        # Or a crash before the next checkpoint leaves weights that the run, going on, never had.
        save_checkpoint(trainer.out, trainer.run_id, progress, trainer.parts)
    if progress.losses:
        title, measure = trainer.recipe.name, trainer.task.measure
        draw_curves(progress, trainer.out / CURVES_FILE, title, measure)
    screen.evaluated(progress)


def refresh_negatives(trainer: Trainer, progress: Progress) -> None:
    """Mine hard negatives before an epoch that wants them, unless a checkpoint brought them."""
    number = progress.epoch + 1
    if progress.mined_epoch == number:
        return
    started_s = time.monotonic()
    trainer.task.model.eval()
    with precision(trainer.recipe, trainer.device):
        found = trainer.task.mine(number, known=progress.negatives is not None)
    if found is None:
        return
    progress.negatives, progress.mined_epoch = found, number
    progress.seconds += time.monotonic() - started_s
    save_checkpoint(trainer.out, trainer.run_id, progress, trainer.parts)


def num_steps(recipe: AnyRecipe, task: Task) -> int:
    """Return the optimizer steps of all epochs."""
    sizes = (len(task.batches(epoch)) for epoch in range(recipe.optimizer.epochs))
    return sum(-(-size // recipe.batches.accumulation) for size in sizes)


def evaluation_steps(recipe: AnyRecipe, num_batches: int) -> frozenset[int]:
    """Return after which steps of an epoch dev is evaluated; the last is one of them.

    >>> recipe = AnyRecipe.model_validate({
    ...     "name": "r", "model": {"base": "m"}, "batches": {"size": 8},
    ...     "optimizer": {"learning_rate": 0.1}, "run": {"evaluations_per_epoch": 4}})
    >>> sorted(evaluation_steps(recipe, 10))
    [2, 5, 8, 10]
    """
    steps = -(-num_batches // recipe.batches.accumulation)
    parts = recipe.run.evaluations_per_epoch
    return frozenset(max(1, round(steps * part / parts)) for part in range(1, parts + 1))


def rate_at(step: int, steps: int, warmup: float) -> float:
    """Return the share of the peak learning rate: up, then down, in straight lines.

    >>> [rate_at(step, 10, 0.2) for step in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.125]
    """
    rising = max(1, round(steps * warmup))
    if step < rising:
        return (step + 1) / rising
    return max(0.0, (steps - step) / max(1, steps - rising))


def is_stale(recipe: AnyRecipe, progress: Progress) -> bool:
    """Tell whether dev has not become better for as long as the recipe bears."""
    return bool(recipe.run.patience) and progress.stale >= recipe.run.patience


def precision(recipe: AnyRecipe, device: torch.device) -> AbstractContextManager[Any]:
    """Return a context that computes in bfloat16 where that is asked for and pays."""
    if in_bf16(recipe, device):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def backward_precision(recipe: AnyRecipe, device: torch.device) -> AbstractContextManager[Any]:
    """Return a context for the way back: as `precision` where the loss embeds again on it.

    Elsewhere it would only cast gradients of what is float32 on purpose, as those of cosines.
    """
    if isinstance(recipe, Recipe) and recipe.loss.kind == "cached_mnrl":
        return precision(recipe, device)
    return nullcontext()


def in_bf16(recipe: AnyRecipe, device: torch.device) -> bool:
    """Tell whether a run computes in bfloat16: on a GPU, or a CPU that multiplies it."""
    capabilities = torch.cpu.get_capabilities()
    pays = device.type == "cuda" or any(capabilities.get(each) for each in _CPU_BF16)
    return recipe.run.bf16 and pays


def run_id_of(recipe: AnyRecipe, task: Task) -> str:
    """Return a hash over recipe, data and weights: what a run's numbers follow from.

    Of the recipe only what differs from its defaults, so that a run goes on when recipes get a key.
    """
    digest = xxhash.xxh3_128(recipe.model_dump_json(exclude_defaults=True).encode())
    digest.update(task.fingerprint.encode())
    for name, value in task.model.state_dict().items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(value.detach().cpu().float().numpy()).data)
    return digest.hexdigest()
