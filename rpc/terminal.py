"""How commands and build stages speak to people: progress, one result, one-line errors."""

import errno
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

import orjson
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from rpc.errors import VitrineError

EXIT_FAILED = 1
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_ROOM_REMEDY = "; make room, then run the same command again to go on"


class CommandError(Exception):
    """What went wrong, in a sentence, and what to do about it."""


@contextmanager
def progress_bar(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show progress on stderr; yields a function that advances it by a number of steps.

    On a terminal it is a bar; elsewhere one line is printed when the work has ended.
    """
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=False) as progress:
        task = progress.add_task(description, total=total)

        def advance(steps: int) -> None:
            progress.advance(task, steps)

        yield advance


def print_result(result: Mapping[str, Any]) -> None:
    """Print a stage's result: one JSON object on one line of stdout."""
    sys.stdout.write(orjson.dumps(dict(result), default=str).decode() + "\n")
    sys.stdout.flush()


def warn(message: str) -> None:
    """Print `warning: ...` on stderr."""
    sys.stderr.write(f"warning: {message}\n")


def fail(message: str) -> NoReturn:
    """Print `error: ...` on stderr and exit with status 1."""
    sys.stderr.write(f"error: {message}\n")
    raise SystemExit(EXIT_FAILED)


@contextmanager
def errors_as_sentences() -> Iterator[None]:
    """Turn the errors that users can cause into one line and exit status 1."""
    try:
        yield
    except (CommandError, VitrineError) as exc:
        fail(str(exc))
    except KeyboardInterrupt:
        fail("interrupted; run the same command again to go on")
    except OSError as exc:
        remedy = _NO_ROOM_REMEDY if exc.errno in _NO_ROOM else ""
        fail(f"{exc.strerror or exc}{f': {exc.filename}' if exc.filename else ''}{remedy}")
