"""What every way of making a generation ends with: alone, with room, published in one step."""

import errno
import fcntl
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from index_service.generation.manifest import (
    MANIFEST_FILE,
    Manifest,
    ShardEntry,
    generation_folder,
    published_generations,
    shard_folder,
)
from index_service.generation.verify import entry_of
from rpc.files import replace_file, sync_folder
from rpc.terminal import CommandError

STAGING_PREFIX = ".building-"
"""Begins the name of the folder that a generation is made in; a hash of its inputs follows."""
LAST_NUMBER_FILE = ".last-number"
"""The number given last in a folder of generations."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def next_number(generations: Path) -> int:
    """Return a number that no generation in a folder has, or had before it was deleted.

    Services know a generation by its number: another one of the same number they would take for
    the one that they have loaded.

    Raises:
        CommandError: what says so was altered.
    """
    last = generations / LAST_NUMBER_FILE
    try:
        last_given = int(last.read_text()) if last.exists() else 0
    except ValueError as exc:
        raise CommandError(
            f"{last} holds no number; write the largest that a generation here ever had into it"
        ) from exc
    return max(last_given, *published_generations(generations), 0) + 1


def publish(staging: Path, generations: Path, manifest: Manifest) -> None:
    """Write the manifest last, then give the folder its number, durably."""
    replace_file(staging / MANIFEST_FILE, manifest.to_json())
    replace_file(generations / LAST_NUMBER_FILE, f"{manifest.generation}".encode())
    staging.rename(generations / generation_folder(manifest.generation))
    sync_folder(generations)


def shard_entries(staging: Path, items: Sequence[int]) -> tuple[ShardEntry, ...]:
    """Return what a manifest says of the shards' files as they are now.

    Args:
        staging: the folder of the generation in the making.
        items: how many each shard has.
    """
    return tuple(
        ShardEntry(
            shard=shard,
            items=count,
            files={
                path.name: entry_of(path)
                for path in sorted((staging / shard_folder(shard)).iterdir())
            },
        )
        for shard, count in enumerate(items)
    )


@contextmanager
def alone(staging: Path) -> Iterator[None]:
    """Keep other builds out of the folder that `staging` is in, while this process runs.

    What interrupted builds of other inputs left there is removed: nothing else would.

    Raises:
        CommandError: another build is running.
    """
    generations = staging.parent
    with (generations / ".build.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise CommandError(
                f"another build is running in {generations}; wait for it to end"
            ) from exc
        for left in sorted(generations.glob(f"{STAGING_PREFIX}*")):
            if left != staging:
                sys.stderr.write(f"removing {left}, left by an interrupted build of other inputs\n")
                # A worker of it may still be ending; what it writes now goes the next time.
                shutil.rmtree(left, ignore_errors=True)
        yield


@contextmanager
def enough_room(staging: Path) -> Iterator[None]:
    """Turn a full disk into a sentence."""
    try:
        yield
    except OSError as exc:
        if exc.errno not in _NO_ROOM:
            raise
        raise CommandError(
            f"no room left while building in {staging}: {exc.strerror}. Free some space and run "
            "the same command again; finished shards are kept, published generations untouched"
        ) from exc
