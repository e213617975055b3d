"""A first look at all items: which shard each belongs to, and which attributes there are."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from index_service.build.columns import attributes_of
from index_service.build.work_folder import WorkFolder
from index_service.build.workers import Advance
from index_service.generation.manifest import AttributeEntry, AttributeKind
from rpc.buckets import bucket_of, shard_of
from rpc.terminal import CommandError


@dataclass(frozen=True, slots=True)
class SurveyTask:
    """A range of record batches to look at."""

    work: WorkFolder
    first_batch: int
    after_batch: int
    num_shards: int


@dataclass(slots=True)
class Sightings:
    """How often an attribute was seen as one kind, and where first."""

    items: int
    first_item_id: str


@dataclass(slots=True)
class Survey:
    """What was found in a range of items."""

    shards: NDArray[np.uint16]
    """The shard of each row, shape (items,)."""
    first_item_id: str = ""
    last_item_id: str = ""
    attributes: dict[tuple[str, AttributeKind], Sightings] = field(default_factory=dict)


def survey_tasks(work: WorkFolder, num_shards: int, pieces: int) -> list[SurveyTask]:
    """Cut the record batches into ranges of about equal length, at most `pieces`."""
    cuts = np.linspace(0, work.count_batches(), pieces + 1).astype(int).tolist()
    return [
        SurveyTask(work, first, after, num_shards)
        for first, after in pairwise(cuts)
        if after > first
    ]


def survey(task: SurveyTask, advance: Advance) -> Survey:
    """Look at a range of items.

    Raises:
        CommandError: the items are not in ascending order of unique ids, or one cannot be read.
    """
    found = Survey(shards=np.empty(0, dtype=np.uint16))
    shards: list[int] = []
    for batch in task.work.batches(task.first_batch, task.after_batch):
        item_ids = batch.item_ids.to_pylist()
        for item_id, serialized in zip(item_ids, batch.items, strict=True):
            _require_order(found.last_item_id, item_id)
            found.first_item_id = found.first_item_id or item_id
            found.last_item_id = item_id
            shards.append(shard_of(bucket_of(item_id), task.num_shards))
            _sight(found, item_id, serialized.as_buffer().to_pybytes())
        advance(len(item_ids))
    found.shards = np.array(shards, dtype=np.uint16)
    return found


def merge(surveys: Sequence[Survey]) -> tuple[NDArray[np.uint16], tuple[AttributeEntry, ...]]:
    """Return the shard of every row, and every attribute by name.

    Raises:
        CommandError: an attribute has two kinds, or ids are out of order.
    """
    for before, after in pairwise(surveys):
        _require_order(before.last_item_id, after.first_item_id)
    kinds: dict[str, AttributeKind] = {}
    totals: dict[tuple[str, AttributeKind], Sightings] = {}
    for (name, kind), seen in _all_sightings(surveys):
        first = totals.get((name, kinds.setdefault(name, kind)))
        if kinds[name] is not kind and first is not None:
            raise CommandError(
                f"attribute {name!r} is a {kinds[name]} in item {first.first_item_id!r} and a "
                f"{kind} in item {seen.first_item_id!r}; an attribute has one kind"
            )
        total = totals.setdefault((name, kind), Sightings(0, seen.first_item_id))
        total.items += seen.items
    shards = [found.shards for found in surveys]
    entries = (AttributeEntry(name, kind, seen.items) for (name, kind), seen in totals.items())
    return (
        np.concatenate(shards) if shards else np.empty(0, dtype=np.uint16),
        tuple(sorted(entries, key=lambda entry: entry.name)),
    )


def _all_sightings(
    surveys: Iterable[Survey],
) -> Iterable[tuple[tuple[str, AttributeKind], Sightings]]:
    for found in surveys:
        yield from found.attributes.items()


def _sight(found: Survey, item_id: str, serialized: bytes) -> None:
    for name, kind, _ in attributes_of(item_id, serialized):
        found.attributes.setdefault((name, kind), Sightings(0, item_id)).items += 1


def _require_order(before: str, after: str) -> None:
    if before >= after:
        raise CommandError(
            f"items.arrow is not in ascending order of item_id: {after!r} comes after {before!r}; "
            "run the export stage again"
        )
