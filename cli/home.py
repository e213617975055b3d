"""Where everything of one installation lies: bundles, catalogue, generations, logs, processes."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from rpc.terminal import CommandError

DEFAULT_HOME = Path(".vitrine")


@dataclass(frozen=True, slots=True)
class Home:
    """A folder, and the places in it."""

    path: Path

    @classmethod
    def at(cls, path: Path) -> "Home":
        """Return the home at a path, made absolute, so that children find it from anywhere."""
        return cls(path.expanduser().absolute())

    def require_there(self) -> None:
        """Refuse a folder that is not there.

        Raises:
            CommandError: it is not.
        """
        if not self.path.is_dir():
            raise CommandError(
                f"there is no home {self.path}; name another with --home, or make one with "
                "`vitrine build`"
            )

    @property
    def bundles(self) -> Path:
        """One folder an encoder bundle, by encoder_id."""
        return self.path / "bundles"

    @property
    def generations(self) -> Path:
        """One folder a generation, and which of them is promoted."""
        return self.path / "generations"

    @property
    def builds(self) -> Path:
        """One work folder a build under way."""
        return self.path / "builds"

    @property
    def embeddings(self) -> Path:
        """Embeddings by text, one folder an encoder; survives builds."""
        return self.path / "embeddings"

    @property
    def logs(self) -> Path:
        """One log a process."""
        return self.path / "logs"

    @property
    def run(self) -> Path:
        """Which processes run, and where they listen."""
        return self.path / "run"

    @property
    def catalog_url(self) -> str:
        """The default catalogue: SQLite, one file."""
        return f"sqlite:///{self.path / 'catalog.sqlite'}"


HomeOption = Annotated[
    Path,
    typer.Option(
        "--home",
        envvar="VITRINE_HOME",
        help="Folder with bundles, catalogue, generations, logs.",
        show_default=str(DEFAULT_HOME),
    ),
]


@contextmanager
def only_one(lock_file: Path, refusal: str) -> Iterator[int]:
    """Hold a lock while the body runs; yields its descriptor, which children may inherit.

    The lock lasts as long as any process keeps the descriptor open, so a child that outlives a
    killed parent still holds it.

    Raises:
        CommandError: somebody else holds the lock; carries the refusal.
    """
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(lock_file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise CommandError(refusal) from exc
        yield descriptor
    finally:
        os.close(descriptor)
