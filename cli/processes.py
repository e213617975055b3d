"""The processes of one home: started, remembered across commands, and stopped in order."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import orjson
import psutil

from cli.home import Home
from rpc.files import replace_file
from rpc.terminal import CommandError

STATE_FILE = "processes.json"
STATE_VERSION = 1
STOP_TIMEOUT_S = 30.0
KILL_TIMEOUT_S = 5.0
POLL_S = 0.05
# A process is recognised by pid and start time. The clock that start times are told on may be
# adjusted meanwhile; a pid is not used again within this time.
START_TIME_TOLERANCE_S = 2.0
_LOG_TAIL_BYTES = 64 * 1024

# Who is stopped first: nobody loses what it still calls.
STOP_ORDER = ("gateway", "shard", "encoder")


@dataclass(frozen=True, slots=True)
class Service:
    """A process to start; its settings go under its prefix into the environment."""

    role: str
    module: str
    prefix: str
    settings: Mapping[str, str]
    shard: int | None = None

    @property
    def name(self) -> str:
        """What its log and announcement are called: "encoder", "shard-0", "gateway"."""
        return self.role if self.shard is None else f"{self.role}-{self.shard}"


@dataclass(frozen=True, slots=True)
class Process:
    """A process that was started; addresses are empty until it has announced them."""

    name: str
    role: str
    shard: int | None
    pid: int
    started_at: float
    log: str
    address: str = ""
    http_address: str = ""

    @property
    def alive(self) -> bool:
        """Tell whether it still runs, and is not another process under the same pid."""
        return is_alive(self.pid, self.started_at)

    def resident_bytes(self) -> int:
        """Return its resident memory in bytes, zero once it has ended."""
        try:
            return int(psutil.Process(self.pid).memory_info().rss) if self.alive else 0
        except psutil.Error:
            return 0


@dataclass(frozen=True, slots=True)
class State:
    """What `up` leaves behind for `down`, `status` and `search`."""

    processes: tuple[Process, ...] = ()
    generation: int = 0
    stopping: bool = False

    @property
    def alive(self) -> tuple[Process, ...]:
        """The processes that still run."""
        return tuple(process for process in self.processes if process.alive)

    def gateway(self) -> Process | None:
        """Return the gateway if it runs and has an address."""
        return next((p for p in self.alive if p.role == "gateway" and p.address), None)


def start(service: Service, home: Home) -> Process:
    """Start a process of its own session, its log in the home; a log before it is kept as .1."""
    home.run.mkdir(parents=True, exist_ok=True)
    home.logs.mkdir(parents=True, exist_ok=True)
    announcement_file(home, service.name).unlink(missing_ok=True)
    log_file = home.logs / f"{service.name}.log"
    if log_file.exists():
        log_file.replace(log_file.with_suffix(".log.1"))
    with log_file.open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", service.module],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=_environment(service, home),
            start_new_session=True,
        )
    return Process(
        name=service.name,
        role=service.role,
        shard=service.shard,
        pid=child.pid,
        started_at=start_time(child.pid),
        log=str(log_file),
    )


def announced(process: Process, home: Home) -> Process | None:
    """Return the process with the addresses it announced; None while it has not."""
    try:
        announcement = orjson.loads(announcement_file(home, process.name).read_bytes())
    except FileNotFoundError:
        return None
    if announcement["pid"] != process.pid:
        return None
    return replace(
        process, address=announcement["address"], http_address=announcement["http_address"]
    )


def announcement_file(home: Home, name: str) -> Path:
    """Return where a process writes its addresses."""
    return home.run / f"{name}.json"


def start_time(pid: int) -> float:
    """Return when a process started, in seconds since 1970; zero when it has ended."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0


def is_alive(pid: int, started_at: float) -> bool:
    """Tell whether the process that had this pid and start time still runs."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return abs(process.create_time() - started_at) <= START_TIME_TOLERANCE_S
    except psutil.Error:
        return False


def stop_all(
    processes: Sequence[Process], timeout_s: float = STOP_TIMEOUT_S
) -> tuple[Process, ...]:
    """Stop processes, callers before those they call; return those that had to be killed."""
    killed: list[Process] = []
    for role in STOP_ORDER:
        killed += _stop([process for process in processes if process.role == role], timeout_s)
    return tuple(killed)


def why_it_ended(process: Process, status: int | None = None) -> str:
    """Return the process's own `error:` sentence from its log, else how it ended.

    Args:
        process: a process that has ended.
        status: what `reap` returned for it, where it did.
    """
    last = ""
    for line in _last_lines(process):
        if line.startswith("error: "):
            return line.removeprefix("error: ")
        # Log lines are JSON objects; what is not came from an interpreter or a library that died.
        last = last or ("" if line.startswith("{") else line.strip())
    if status is not None and status < 0:
        return f"it was stopped by {signal.Signals(-status).name}"
    return last or (f"exit status {status}" if status is not None else "it left no reason")


def _last_lines(process: Process) -> Sequence[str]:
    """Return the last lines of a process's log, the newest first."""
    try:
        with Path(process.log).open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
            return log.read().decode(errors="replace").splitlines()[::-1]
    except FileNotFoundError:
        return ()


def read_state(home: Home) -> State:
    """Return what `up` left behind; nothing when nothing was started.

    Raises:
        CommandError: the file cannot be understood.
    """
    file = home.run / STATE_FILE
    try:
        document = orjson.loads(file.read_bytes())
        return State(
            processes=tuple(Process(**process) for process in document["processes"]),
            generation=document["generation"],
            stopping=document["stopping"],
        )
    except FileNotFoundError:
        return State()
    except (orjson.JSONDecodeError, KeyError, TypeError) as exc:
        raise CommandError(
            f"cannot understand {file}; stop its processes by hand and remove the file"
        ) from exc


def write_state(home: Home, state: State) -> None:
    """Remember what runs, in one step."""
    home.run.mkdir(parents=True, exist_ok=True)
    document = {"format_version": STATE_VERSION, **asdict(state)}
    replace_file(home.run / STATE_FILE, orjson.dumps(document, option=orjson.OPT_INDENT_2))


def forget_state(home: Home) -> None:
    """Forget what ran, once all of it has ended."""
    for process in read_state(home).processes:
        announcement_file(home, process.name).unlink(missing_ok=True)
    (home.run / STATE_FILE).unlink(missing_ok=True)


def _stop(processes: Sequence[Process], timeout_s: float) -> list[Process]:
    """Ask politely, wait, then kill; return those killed."""
    for process in processes:
        _send(process, signal.SIGTERM)
    # A stopped process reads no signal but this one.
    for process in processes:
        _send(process, signal.SIGCONT)
    left = _wait(processes, timeout_s)
    for process in left:
        _send(process, signal.SIGKILL)
    _wait(left, KILL_TIMEOUT_S)
    return left


def _wait(processes: Sequence[Process], timeout_s: float) -> list[Process]:
    """Wait for processes to end; return those that have not."""
    deadline_s = time.monotonic() + timeout_s
    left = [process for process in processes if not _has_ended(process)]
    while left and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
        left = [process for process in left if not _has_ended(process)]
    return left


def _has_ended(process: Process) -> bool:
    reap(process)
    return not process.alive


def reap(process: Process) -> int | None:
    """Return the exit status of a child of ours that has ended, so that it leaves no zombie.

    Negative numbers are signals; None while it runs, and for a child of somebody else.
    """
    try:
        pid, status = os.waitpid(process.pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if pid else None


def _send(process: Process, number: signal.Signals) -> None:
    if process.alive:
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            return


def _environment(service: Service, home: Home) -> dict[str, str]:
    return {
        **os.environ,
        # FAISS and ONNX Runtime are given their threads by each service; OpenMP starts none beside.
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        **{f"{service.prefix}{name}": value for name, value in service.settings.items()},
        f"{service.prefix}ANNOUNCE_FILE": str(announcement_file(home, service.name)),
    }
