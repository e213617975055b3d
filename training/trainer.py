"""A training run, step by step: it evaluates itself, keeps the best, and goes on where it was."""

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray

from rpc.terminal import CommandError, progress_bar
from training.batches import Batch, make_batches
from training.beir import Collection
from training.checkpoints import Progress, save_best, save_checkpoint
from training.curves import CURVES_FILE, Screen, draw_curves
from training.examples import Examples
from training.losses import Features, Loss, build_loss
from training.mining import Window, mine
from training.model_source import find_model
from training.ranking import evaluate_vectors
from training.recipe import Recipe
from training.torch_encoder import load_model, max_tokens_of, prompts_of

Floats = NDArray[np.float32]

DEV_MEASURE = "recall@10"


@dataclass(slots=True)
class Trainer:
    """All that takes part in a run.

    Attributes:
        recipe: how to train.
        examples: what to train on; the model's prompts stand before its texts.
        dev: what the best weights are chosen on, likewise.
        same_title: the items that answer a query of dev count as one.
        model: the bi-encoder.
        trained: its weights that move.
        loss, optimizer, schedule: what moves them.
        device: where.
        out: the run's folder.
        run_id: stands for all that the run's numbers follow from.
        whole_tokens: the model's own limit, which is put back when it is trained.
    """

    recipe: Recipe
    examples: Examples
    dev: Collection
    same_title: bool
    model: Any
    trained: Sequence[torch.nn.Parameter]
    loss: Loss
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    device: torch.device
    out: Path
    run_id: str
    whole_tokens: int

    @property
    def parts(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule}


def prepare(
    recipe: Recipe, examples: Examples, dev: Collection, out: Path, *, same_title: bool
) -> Trainer:
    """Load the model and put together what trains it.

    Raises:
        CommandError: there is no such model, or the recipe does not fit it or the pairs.
    """
    torch.manual_seed(recipe.run.seed)
    source = find_model(recipe.model.base)
    with progress_bar("loading the model", total=None):
        model: Any = load_model(source)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    whole_tokens = max_tokens_of(model)
    model.max_seq_length = min(recipe.model.max_tokens or whole_tokens, whole_tokens)
    freeze(model, recipe)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    examples, dev = with_prompts(prompts_of(model), examples, dev)
    optimizer = torch.optim.AdamW(
        trained,
        lr=recipe.optimizer.learning_rate,
        weight_decay=recipe.optimizer.weight_decay,
    )
    if not (steps := num_steps(recipe, examples)):
        raise CommandError("the pairs are all of one product, and batches.product_once is true")
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate_at(step, steps, recipe.optimizer.warmup)
    )
    return Trainer(
        recipe=recipe,
        examples=examples,
        dev=dev,
        same_title=same_title,
        model=model,
        trained=trained,
        loss=build_loss(model, recipe),
        optimizer=optimizer,
        schedule=schedule,
        device=device,
        out=out,
        run_id=run_id_of(recipe, examples, dev, model),
        whole_tokens=whole_tokens,
    )


def freeze(model: Any, recipe: Recipe) -> None:
    """Leave the weights alone that the recipe says.

    Raises:
        CommandError: all layers would be, or the model's layers are not known.
    """
    backbone = model[0].model
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
    backbone.embeddings.requires_grad_(False)
    layers[:frozen].requires_grad_(False)


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
    batches = batches_of(recipe, trainer.examples, progress.epoch)
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
    trainer.model.train()
    trainer.optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for batch in batches:
        columns = trainer.examples.columns(batch, progress.negatives)
        with precision(trainer.recipe, trainer.device):
            loss = trainer.loss([features_of(trainer, texts) for texts in columns]) / len(batches)
        torch.autograd.backward(loss)
        total += float(loss.detach())
    if not math.isfinite(total):
        raise CommandError(
            f"the loss is {total} at step {progress.step + 1}; lower optimizer.learning_rate (now "
            f"{trainer.recipe.optimizer.learning_rate:g}), or set run.bf16 = false on a GPU"
        )
    torch.nn.utils.clip_grad_norm_(trainer.trained, trainer.recipe.optimizer.gradient_norm_max)
    trainer.optimizer.step()
    trainer.schedule.step()
    progress.batch += len(batches)
    progress.step += 1
    progress.losses.append((progress.step, total))
    progress.seconds += time.monotonic() - started_s


def evaluate_dev(trainer: Trainer, progress: Progress, screen: Screen) -> None:
    """Take dev recall@10, and keep the weights when they are the best so far."""
    started_s = time.monotonic()
    queries = embed(trainer, trainer.dev.query_texts)
    items = embed(trainer, trainer.dev.item_texts)
    found = evaluate_vectors(
        trainer.dev, queries, items, [DEV_MEASURE], as_one=trainer.same_title
    ).means[DEV_MEASURE]
    progress.evaluations.append((progress.step, found))
    if found > progress.best:
        progress.best, progress.stale = found, 0
        save_best(trainer.out, trainer.model)
    else:
        progress.stale += 1
    progress.seconds += time.monotonic() - started_s
    if progress.losses:
        draw_curves(progress, trainer.out / CURVES_FILE, trainer.recipe.name)
    screen.evaluated(progress)


def refresh_negatives(trainer: Trainer, progress: Progress) -> None:
    """Mine hard negatives before an epoch that wants them, unless a checkpoint brought them."""
    wanted = trainer.recipe.negatives
    number = progress.epoch + 1
    if not wanted.per_pair or number < wanted.from_epoch or progress.mined_epoch == number:
        return
    if progress.negatives is not None and not wanted.refresh:
        return
    started_s = time.monotonic()
    examples = trainer.examples
    progress.negatives = mine(
        embed(trainer, examples.queries),
        embed(trainer, examples.items),
        examples.groups,
        examples.item_groups,
        examples.positives,
        Window(wanted.per_pair, wanted.rank_first, wanted.rank_last, wanted.margin),
        seed=trainer.recipe.run.seed + number,
    )
    progress.mined_epoch = number
    progress.seconds += time.monotonic() - started_s
    save_checkpoint(trainer.out, trainer.run_id, progress, trainer.parts)


def embed(trainer: Trainer, texts: Sequence[str]) -> Floats:
    """Return unit vectors, float32 of shape (n, dim). Dropout is off, no random number is drawn."""
    with precision(trainer.recipe, trainer.device):
        vectors: Floats = trainer.model.eval().encode(
            list(texts),
            prompt="",  # it stands there already
            batch_size=trainer.recipe.batches.mini_batch,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
    return vectors.astype(np.float32)


def features_of(trainer: Trainer, texts: list[str]) -> Features:
    """Return texts as the model takes them, tensors of shape (n, tokens)."""
    features = trainer.model.preprocess(texts)
    return {
        name: value.to(trainer.device)
        for name, value in features.items()
        if isinstance(value, torch.Tensor)
    }


def with_prompts(
    prompts: dict[str, str], examples: Examples, dev: Collection
) -> tuple[Examples, Collection]:
    """Return both with the model's prompts before their texts."""
    query, item = prompts["query"], prompts["item"]
    return (
        replace(
            examples,
            queries=tuple(query + text for text in examples.queries),
            items=tuple(item + text for text in examples.items),
        ),
        replace(
            dev,
            query_texts=tuple(query + text for text in dev.query_texts),
            item_texts=tuple(item + text for text in dev.item_texts),
        ),
    )


def batches_of(recipe: Recipe, examples: Examples, epoch: int) -> list[Batch]:
    """Return the batches of an epoch, 0-based."""
    return make_batches(
        examples.groups,
        [len(query) for query in examples.queries],
        recipe.batches.size,
        product_once=recipe.batches.product_once,
        bucket=recipe.batches.bucket,
        seed=f"{recipe.run.seed} {epoch}",
    )


def num_steps(recipe: Recipe, examples: Examples) -> int:
    """Return the optimizer steps of all epochs."""
    sizes = (len(batches_of(recipe, examples, e)) for e in range(recipe.optimizer.epochs))
    return sum(-(-size // recipe.batches.accumulation) for size in sizes)


def evaluation_steps(recipe: Recipe, num_batches: int) -> frozenset[int]:
    """Return after which steps of an epoch dev is evaluated; the last is one of them.

    >>> recipe = Recipe.model_validate({
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


def is_stale(recipe: Recipe, progress: Progress) -> bool:
    """Tell whether dev has not become better for as long as the recipe bears."""
    return bool(recipe.run.patience) and progress.stale >= recipe.run.patience


def precision(recipe: Recipe, device: torch.device) -> AbstractContextManager[Any]:
    """Return a context that computes in bfloat16 where that is asked for and a GPU is there."""
    if recipe.run.bf16 and device.type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()


def run_id_of(recipe: Recipe, examples: Examples, dev: Collection, model: Any) -> str:
    """Return a hash over recipe, pairs, dev and weights: what a run's numbers follow from."""
    digest = xxhash.xxh3_128(recipe.model_dump_json().encode())
    digest.update(examples.fingerprint.encode())
    for text in (*dev.query_texts, *dev.item_texts):
        digest.update(text.encode() + b"\n")
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(value.detach().cpu().float().numpy()).data)
    return digest.hexdigest()
