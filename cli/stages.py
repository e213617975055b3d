"""Commands of other packages run as processes: progress passes through, the result is read."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from cli.signals import stop_signals_interrupt
from rpc.terminal import EXIT_FAILED, CommandError

STOP_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class StageResult:
    """What a stage reported, and how long it took in seconds."""

    values: dict[str, Any]
    seconds: float


class StageFailed(CommandError):
    """A stage ended with an error, which it has already printed itself."""


def run_stage(
    module: str,
    arguments: Sequence[str],
    inherited: Sequence[int] = (),
    secrets: Mapping[str, str] | None = None,
) -> StageResult:
    """Run `python -m module arguments` and return the JSON object on its last line of stdout.

    Its stderr is ours, so that progress bars show. It runs in its own session and is stopped, with
    all that it started, when this function is left early, as SIGINT, SIGTERM and SIGHUP make it.

    Args:
        module: the module to run.
        arguments: its command line.
        inherited: file descriptors, such as a lock, that it keeps open.
        secrets: environment variables for what may hold a password: a command line is everyone's
            to read.

    Raises:
        StageFailed: it ended with another status than 0.
        CommandError: its result cannot be understood.
        KeyboardInterrupt: we were asked to stop.
    """
    started_s = time.monotonic()
    with (
        stop_signals_interrupt(),
        subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            pass_fds=tuple(inherited),
            env={**os.environ, **(secrets or {})},
            start_new_session=True,
        ) as child,
    ):
        try:
            output, _ = child.communicate()
        except BaseException:
            _stop_session(child)
            raise
    if child.returncode:
        raise StageFailed(_how_it_ended(module, child.returncode))
    return StageResult(_last_object(module, output), time.monotonic() - started_s)


def command_line(options: Mapping[str, object]) -> list[str]:
    """Return options and their values as arguments, without those that are None.

    >>> command_line({"--m": 32, "--name": None})
    ['--m', '32']
    """
    given = ((name, str(value)) for name, value in options.items() if value is not None)
    return [part for pair in given for part in pair]


def _stop_session(child: subprocess.Popen[bytes]) -> None:
    """Stop a child and its own children."""
    _signal_session(child, signal.SIGTERM)
    try:
        child.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        _signal_session(child, signal.SIGKILL)
        child.wait()


def _signal_session(child: subprocess.Popen[bytes], number: signal.Signals) -> None:
    try:
        os.killpg(child.pid, number)
    except ProcessLookupError:
        return


def _how_it_ended(module: str, status: int) -> str:
    if status == EXIT_FAILED:
        return f"{module} stopped for the reason above"
    if status == -signal.SIGKILL:
        return f"{module} was killed (SIGKILL); the machine may be out of memory"
    ending = signal.Signals(-status).name if status < 0 else f"status {status}"
    return f"{module} ended with {ending}"


def _last_object(module: str, output: bytes) -> dict[str, Any]:
    lines = output.splitlines()
    try:
        values = orjson.loads(lines[-1])
    except (IndexError, orjson.JSONDecodeError) as exc:
        raise CommandError(
            f"{module} gave no result on its last line; its version may not fit this command"
        ) from exc
    if not isinstance(values, dict):
        raise CommandError(f"{module} gave {type(values).__name__} as result, not an object")
    return values
