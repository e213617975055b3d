"""How pairs are put into batches; the same seed gives the same batches."""

from collections.abc import Sequence
from random import Random

from training.recipe import AnyRecipe

Batch = list[int]


def batches_of(
    recipe: AnyRecipe,
    groups: Sequence[str],
    texts: Sequence[str],
    epoch: int,
    *,
    product_once: bool = False,
) -> list[Batch]:
    """Return the batches of an epoch, 0-based, as a recipe says; see `make_batches`."""
    return make_batches(
        groups,
        [len(text) for text in texts],
        recipe.batches.size,
        product_once=product_once,
        bucket=recipe.batches.bucket,
        seed=f"{recipe.run.seed} {epoch}",
    )


def make_batches(
    groups: Sequence[str],
    lengths: Sequence[int],
    size: int,
    *,
    product_once: bool,
    bucket: int,
    seed: str,
) -> list[Batch]:
    """Return places of pairs, a batch a list; a batch of one, which has no negatives, is left out.

    Args:
        groups: each pair's product group.
        lengths: how long each pair's query is, in any unit.
        size: pairs a batch.
        product_once: put no group into a batch twice; some batches then stay smaller.
        bucket: so many batches are filled from pairs sorted by length.
        seed: says the order.
    """
    draw = Random(f"batches {seed}")  # noqa: S311 - repeatable on purpose
    order = list(range(len(groups)))
    draw.shuffle(order)
    if bucket > 1:
        order = _sorted_within(order, lengths, size * bucket)
    batches = _each_group_once(order, groups, size) if product_once else _cut(order, size)
    draw.shuffle(batches)
    return [batch for batch in batches if len(batch) > 1]


def _sorted_within(order: Sequence[int], lengths: Sequence[int], window: int) -> list[int]:
    """Return the order with every window of it sorted by length."""
    return [
        place
        for start in range(0, len(order), window)
        for place in sorted(order[start : start + window], key=lengths.__getitem__)
    ]


def _cut(order: Sequence[int], size: int) -> list[Batch]:
    return [list(order[start : start + size]) for start in range(0, len(order), size)]


def _each_group_once(order: Sequence[int], groups: Sequence[str], size: int) -> list[Batch]:
    """Return batches filled in order; a pair waits while its group is in the batch.

    >>> _each_group_once([0, 1, 2, 3], ["a", "a", "b", "b"], 2)
    [[0, 2], [1, 3]]
    """
    batches: list[Batch] = []
    waiting = list(order)
    while waiting:
        batch, passed, seen = Batch(), Batch(), set[str]()
        for at, place in enumerate(waiting):
            if len(batch) == size:
                passed += waiting[at:]
                break
            if groups[place] in seen:
                passed.append(place)
            else:
                seen.add(groups[place])
                batch.append(place)
        batches.append(batch)
        waiting = passed
    return batches
