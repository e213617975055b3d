"""A control group that limits a process's memory, file cache included; needs root.

Version 2 of control groups where it has the memory controller, else version 1.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rpc.terminal import CommandError

_ROOT = Path("/sys/fs/cgroup")
_NAME = f"vitrine-benchmark-{os.getpid()}"


@dataclass(frozen=True, slots=True)
class ControlGroup:
    """A group, its version, and its folder of control files."""

    version: int
    folder: Path

    def enter(self) -> None:
        """Move the calling process into the group; children that it starts are in it, too."""
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    @property
    def peak_bytes(self) -> int:
        """The most memory that the group has used, file cache included."""
        name = "memory.peak" if self.version == 2 else "memory.max_usage_in_bytes"
        path = self.folder / name
        return int(path.read_text()) if path.exists() else 0


@contextmanager
def memory_limit(limit_bytes: int) -> Iterator[ControlGroup]:
    """Yield an empty group with a limit; it goes once its processes have ended.

    Raises:
        CommandError: this user or machine cannot make one.
    """
    version, parent, name = _memory_controller()
    group = ControlGroup(version, parent / _NAME)
    try:
        group.folder.mkdir()
        (group.folder / name).write_text(str(limit_bytes))
    except OSError as exc:
        raise CommandError(f"cannot limit memory in {group.folder}: {exc}; run as root") from exc
    try:
        yield group
    finally:
        group.folder.rmdir()


def _memory_controller() -> tuple[int, Path, str]:
    """Return the version, the folder to make groups in, and the name of the limit's file."""
    controllers = _ROOT / "cgroup.controllers"
    if controllers.exists() and "memory" in controllers.read_text().split():
        (_ROOT / "cgroup.subtree_control").write_text("+memory")
        return 2, _ROOT, "memory.max"
    if (_ROOT / "memory" / "memory.limit_in_bytes").exists():
        return 1, _ROOT / "memory", "memory.limit_in_bytes"
    raise CommandError(f"there is no memory controller in {_ROOT}")
