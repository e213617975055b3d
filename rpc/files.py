"""Files that a reader sees whole or not at all, and that survive a power cut."""

import hashlib
import os
import shutil
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Write a small file under a temporary name, fsync, rename, fsync the folder."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    sync_folder(path.parent)


def replace_folder(aside: Path, target: Path, replaced: Path) -> None:
    """Rename a finished folder to its name, durably.

    A kill in between leaves what was there before under its third name, and nothing under its own.

    Args:
        aside: the finished folder.
        target: its name, which another folder may have.
        replaced: what that one is called until it is removed; all three lie in one folder.
    """
    if target.exists():
        target.rename(replaced)
    aside.rename(target)
    sync_folder(target.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
