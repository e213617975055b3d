"""The command line and the services as real processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import psutil

from tests.system.polling import eventually
from tests.system.web import http_get

ROOT = Path(__file__).parents[2]
COMMAND_TIMEOUT_S = 120.0
MODULES = {
    "encoder": ("encoder_service", "VITRINE_ENCODER_"),
    "shard": ("index_service", "VITRINE_INDEX_"),
    "gateway": ("gateway", "VITRINE_GATEWAY_"),
}


def environment(settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return our environment without settings of somebody's own installation."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("VITRINE_")}
    return {**clean, "PYTHONUNBUFFERED": "1", "COLUMNS": "200", **(settings or {})}


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """What it printed, as JSON."""
        return orjson.loads(self.out)

    @property
    def error(self) -> str:
        """Its `error: ...` sentence; that of the process it ran, where it refers to one."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        sentences = [line for line in lines if "for the reason above" not in line]
        assert len(sentences) == 1, self.err
        return sentences[0].removeprefix("error: ")


def vitrine(
    *arguments: object,
    settings: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
    timeout_s: float = COMMAND_TIMEOUT_S,
) -> Ran:
    """Run the command line; it never leaves a traceback.

    Args:
        arguments: of the command.
        settings: environment variables beside ours.
        prefix: a command that runs it, as in ["prlimit", "--fsize=1000"].
        timeout_s: after that it hangs, and the test fails.
    """
    return run_module("cli", *arguments, settings=settings, prefix=prefix, timeout_s=timeout_s)


def run_module(
    module: str,
    *arguments: object,
    settings: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
    timeout_s: float = COMMAND_TIMEOUT_S,
) -> Ran:
    """Run `python -m module`; it never leaves a traceback."""
    done = subprocess.run(
        [*prefix, sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        env=environment(settings),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Ran(done.returncode, done.stdout, done.stderr)


def succeed(ran: Ran) -> Ran:
    """Return it, once it is sure that the command succeeded."""
    assert ran.status == 0, ran.err
    return ran


@dataclass(frozen=True)
class Process:
    """A service that listens."""

    name: str
    pid: int
    address: str
    http_address: str
    log: Path

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.address.rpartition(":")[2])

    @property
    def running(self) -> bool:
        """Tell whether it has not ended; a stopped one runs."""
        try:
            return psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def stop(self) -> None:
        """Make it stand still, its sockets open."""
        self.send(signal.SIGSTOP)
        process = psutil.Process(self.pid)
        eventually(
            lambda: all(
                psutil.Process(thread.id).status() == psutil.STATUS_STOPPED
                for thread in process.threads()
            ),
            f"{self.name} stands still",
        )

    def go_on(self) -> None:
        """Let it go on."""
        self.send(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once."""
        self.send(signal.SIGKILL)
        self.wait_until_ended()

    def wait_until_ended(self, timeout_s: float = 20.0) -> None:
        """Wait for its end."""
        eventually(lambda: not self.running, f"{self.name} ends", timeout_s)

    def log_lines(self) -> list[dict[str, Any]]:
        """Return what it logged."""
        lines = self.log.read_text().splitlines()
        return [orjson.loads(line) for line in lines if line.startswith("{")]


def start(name: str, settings: Mapping[str, object], folder: Path) -> Process:
    """Start a service by hand and wait until it listens.

    Args:
        name: "encoder", "gateway", or "shard-N"; a suffix after "." tells replicas apart.
        settings: without their prefix, as in {"PORT": 0}.
        folder: for its log and its announcement.
    """
    child, announcement, log = _launch(name, settings, folder)

    def listens() -> bool:
        assert child.poll() is None, f"{name} ended:\n{log.read_text()[-4000:]}"
        return announcement.exists()

    eventually(listens, f"{name} listens", timeout_s=60)
    announced = orjson.loads(announcement.read_bytes())
    return Process(name, child.pid, announced["address"], announced["http_address"], log)


def wait_until_serving(process: Process, timeout_s: float = 60.0) -> None:
    """Wait until its health page says that it can answer."""

    def serves() -> bool:
        assert process.running, f"{process.name} ended:\n{process.log.read_text()[-4000:]}"
        return http_get(process.http_address, "/healthz")[0] == 200

    eventually(serves, f"{process.name} serves", timeout_s)


def start_in_vain(
    name: str, settings: Mapping[str, object], folder: Path, timeout_s: float = 60.0
) -> str:
    """Start a service that must refuse to run; return its error sentence."""
    child, _, log = _launch(name, settings, folder)
    try:
        assert child.wait(timeout_s) == 1
    finally:
        child.kill()
        child.wait()
    text = log.read_text()
    assert "Traceback" not in text, text
    return Ran(1, "", text).error


def _launch(
    name: str, settings: Mapping[str, object], folder: Path
) -> "tuple[subprocess.Popen[bytes], Path, Path]":
    role = name.partition("-")[0].partition(".")[0]
    module, prefix = MODULES[role]
    announcement, log = folder / f"{name}.json", folder / f"{name}.log"
    folder.mkdir(parents=True, exist_ok=True)
    announcement.unlink(missing_ok=True)
    given = {"PORT": 0, "HTTP_PORT": 0, **settings, "ANNOUNCE_FILE": announcement}
    variables = {f"{prefix}{key}": str(value) for key, value in given.items()}
    with log.open("ab") as file:
        child = subprocess.Popen(
            [sys.executable, "-m", module],
            cwd=ROOT,
            env=environment({"OMP_NUM_THREADS": "1", **variables}),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    _CHILDREN.append(child)
    return child, announcement, log


# Held, so that the interpreter does not complain about children that still run.
_CHILDREN: "list[subprocess.Popen[bytes]]" = []


def reap() -> None:
    """Take note of children that have ended, so that they leave no zombies."""
    _CHILDREN[:] = [child for child in _CHILDREN if child.poll() is None]
