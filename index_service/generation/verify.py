"""Whether a generation's files are what its manifest promises."""

import random
from enum import StrEnum
from pathlib import Path

from index_service.generation.manifest import FileEntry, Manifest
from rpc.errors import DataLoss
from rpc.files import sha256_of

_REMEDY = "build the generation again, or restore the file"


class Verification(StrEnum):
    """How much is checked before a generation is served."""

    FULL = "full"
    """Presence, size and SHA-256 of every file."""
    SAMPLED = "sampled"
    """Size of every file, and SHA-256 of one of them, another one each time."""
    LAZY = "lazy"
    """Size of every file now, everything once it is served."""
    SIZE = "size"
    """Presence and size."""


def verify(
    folder: Path,
    manifest: Manifest,
    shard: int | None = None,
    verification: Verification = Verification.FULL,
) -> int:
    """Check the files of a generation, or those that one shard needs; return their bytes.

    Raises:
        DataLoss: a file is missing, cut short, too long or altered; names the file.
    """
    files = manifest.files_by_path(shard)
    hashed = set(files) if verification is Verification.FULL else set()
    if verification is Verification.SAMPLED:
        # Larger files are more to lose, and more often the damaged ones.
        sizes = [entry.bytes for entry in files.values()]
        hashed = set(random.SystemRandom().choices(list(files), sizes))
    for path, entry in files.items():
        verify_file(folder / path, entry, with_hash=path in hashed)
    return sum(entry.bytes for entry in files.values())


def verify_file(path: Path, entry: FileEntry, *, with_hash: bool) -> None:
    """Check one file.

    Raises:
        DataLoss: it is not what the manifest promises.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError as exc:
        raise DataLoss(str(path), f"the file is missing; {_REMEDY}") from exc
    if size != entry.bytes:
        raise DataLoss(str(path), f"has {size} bytes, not {entry.bytes}; {_REMEDY}")
    if with_hash and sha256_of(path) != entry.sha256:
        raise DataLoss(str(path), f"its SHA-256 is not the manifest's; {_REMEDY}")


def entry_of(path: Path) -> FileEntry:
    """Return what a manifest says of a file as it is now."""
    return FileEntry(bytes=path.stat().st_size, sha256=sha256_of(path))
