"""Files that a reader sees whole or not at all, and that survive a power cut."""

import os
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


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
