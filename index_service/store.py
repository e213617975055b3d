"""Where generations live: a folder used in place, or an object store copied from."""

import fcntl
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import xxhash

from index_service.cached import CopiesInUse
from index_service.generation.manifest import (
    MANIFEST_FILE,
    Manifest,
    generation_folder,
    parse_manifest,
    read_manifest,
)
from rpc.errors import DataLoss, NotFound


class GenerationStore:
    """Gives local folders of generations, by number, from a folder or URL."""

    def __init__(self, url: str, cache_dir: Path) -> None:
        """Open a store.

        Args:
            url: a folder, or any URL that fsspec understands (file://, s3://, memory://).
            cache_dir: where files of a URL are copied to; unused for folders.
        """
        self.url = url
        self._filesystem: Any
        self._filesystem, self._root = fsspec.core.url_to_fs(url)
        self._local = "file" in _protocols(self._filesystem)
        self._cache = Path(self._root) if self._local else cache_dir / _name_of(url)
        self._in_use = CopiesInUse(self._cache)

    def manifest(self, generation: int) -> Manifest:
        """Return what a generation's manifest says.

        Raises:
            NotFound: no such generation.
            DataLoss: the manifest is missing or damaged.
            FailedPrecondition: the generation was written in a format that cannot be read here.
        """
        if self._local:
            return read_manifest(self.folder(generation))
        remote = f"{self._root.rstrip('/')}/{generation_folder(generation)}"
        if not self._filesystem.exists(remote):
            raise NotFound("generation", [generation])
        try:
            content: bytes = self._filesystem.cat_file(f"{remote}/{MANIFEST_FILE}")
        except FileNotFoundError as exc:
            raise DataLoss(f"{remote}/{MANIFEST_FILE}", "the file is missing") from exc
        return parse_manifest(content, f"{remote}/{MANIFEST_FILE}")

    def fetch(self, generation: int, manifest: Manifest, shard: int) -> Path:
        """Return a local folder with the files that one shard of a generation needs.

        A copy stays until it is let go of.

        Raises:
            DataLoss: a file that the manifest names is missing.
        """
        folder = self.folder(generation)
        if self._local:
            return folder
        self._in_use.begin(generation)
        try:
            for path, entry in manifest.files_by_path(shard).items():
                self._copy(f"{generation_folder(generation)}/{path}", folder / path, entry.bytes)
            (folder / MANIFEST_FILE).write_bytes(manifest.to_json())
        except BaseException:
            self._in_use.end(generation)
            raise
        return folder

    def let_go(self, generation: int, *, remove: bool) -> None:
        """Use what was fetched no more.

        Args:
            generation: which one; nothing happens where none was fetched.
            remove: whether a copy goes, unless another process uses it; originals are left alone.
        """
        self._in_use.end(generation)
        if remove and not self._local:
            self._in_use.remove_unused(generation)

    def tidy(self, kept: Collection[int]) -> None:
        """Remove copies of all but some generations, unless somebody uses them."""
        if not self._local:
            for generation in self._in_use.generations():
                if generation not in kept:
                    self._in_use.remove_unused(generation)

    def folder(self, generation: int) -> Path:
        """Return the local folder of a generation, whether or not it is there."""
        return self._cache / generation_folder(generation)

    def forget(self, file: str) -> None:
        """Drop a damaged copy so that the next fetch brings it anew; originals are left alone."""
        if not self._local and Path(file).is_relative_to(self._cache):
            Path(file).unlink(missing_ok=True)

    def _copy(self, remote: str, target: Path, size: int) -> None:
        """Copy a file unless a copy of its size is there; a copy appears whole or not at all."""
        if target.exists() and target.stat().st_size == size:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_parts_left(target)
        with _part_of(target) as part:
            try:
                self._filesystem.get_file(f"{self._root.rstrip('/')}/{remote}", str(part))
            except FileNotFoundError as exc:
                raise DataLoss(f"{self.url}/{remote}", "the file is missing") from exc
            part.replace(target)


@contextmanager
def _part_of(target: Path) -> Iterator[Path]:
    """Yield an empty file beside a target, to be filled and renamed; goes if it is not.

    Processes that share the folder have one each, and a lock on it says that it is in use.
    """
    part = target.with_name(f".{target.name}.{uuid4().hex}.part")
    with part.open("xb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield part
        finally:
            part.unlink(missing_ok=True)


def _remove_parts_left(target: Path) -> None:
    """Remove what copies that were killed have left of a target."""
    for part in target.parent.glob(f".{target.name}.*part"):
        with suppress(FileNotFoundError, BlockingIOError), part.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()


def _name_of(url: str) -> str:
    """Return a folder name for a URL."""
    return xxhash.xxh3_64_hexdigest(url.encode())


def _protocols(filesystem: Any) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)
