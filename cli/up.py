"""`vitrine up`: starts encoder, shards and gateway of a home, and waits until they answer."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
from rich.console import Console

from cli.calls import connect, is_serving, why_blocked
from cli.home import Home, only_one
from cli.offline import Manifest, copied_bundle, promoted
from cli.processes import (
    Process,
    Service,
    State,
    announced,
    forget_state,
    read_state,
    reap,
    start,
    stop_all,
    why_it_ended,
    write_state,
)
from cli.signals import STOP_SIGNALS, stop_signals_interrupt
from protos.vitrine.v1 import search_pb2, search_pb2_grpc
from rpc.addresses import authority
from rpc.http import bind
from rpc.terminal import CommandError

READY_TIMEOUT_S = 180.0
POLL_S = 0.1
WATCH_S = 0.5
PROBE_TEXT = "ready"
# What keeps a gateway from serving for good, and what to do about it.
_REMEDIES = {
    "ENCODER_MISMATCH": "start it with the bundle that the generation was built with (without "
    "--bundle), or build a generation with this one",
}
PROBE_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What `vitrine up` can be told."""

    host: str = "127.0.0.1"
    port: int = 7700
    http_port: int = 0
    catalog: str = ""
    bundle: Path | None = None
    reranker: Path | None = None
    ready_timeout_s: float = READY_TIMEOUT_S


def bring_up(home: Home, options: UpOptions) -> State:
    """Start every process of the promoted generation; returns once a search is answered.

    When anything goes wrong, or Ctrl-C is pressed, whatever was started is stopped again.

    Raises:
        CommandError: says why it cannot start, in the words of the process that failed.
    """
    manifest = promoted(home)
    with only_one(home.run / "up.lock", f"another `vitrine up` is starting {home.path} just now"):
        _require_down(home)
        bundle = options.bundle or copied_bundle(home, manifest.encoder_id)
        _require_free_port(options.host, options.port)
        starting = _Starting(home, manifest.generation, options.ready_timeout_s)
        try:
            with stop_signals_interrupt():
                return _start_in_order(starting, manifest, bundle.absolute(), options)
        except BaseException as exc:
            stop_all(starting.processes)
            forget_state(home)
            if isinstance(exc, KeyboardInterrupt):
                raise CommandError("stopped before it was ready; nothing is left running") from None
            raise


def stay_up(home: Home, state: State) -> None:
    """Watch the processes until told to stop; then stop them, gateway first.

    Raises:
        CommandError: all of them ended by themselves.
    """
    stop_asked = threading.Event()
    for number in STOP_SIGNALS:
        signal.signal(number, lambda _number, _frame: stop_asked.set())
    left = list(state.processes)
    while left and not stop_asked.wait(WATCH_S):
        left = _still_running(home, left)
    if left:
        say("stopping")
        take_down(home)
        say("stopped")
    elif _is_stopping(home):
        say("stopped by `vitrine down`")
    else:
        forget_state(home)
        raise CommandError(f"all processes ended; their logs are in {home.logs}")


def take_down(home: Home) -> tuple[Process, ...]:
    """Stop whatever runs for a home; return the processes that had to be killed."""
    state = read_state(home)
    if state.processes:
        write_state(home, replace(state, stopping=True))
    killed = stop_all(state.alive)
    forget_state(home)
    return killed


def say(message: str) -> None:
    """Tell people something that is no result."""
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


class _Starting:
    """Processes on their way up; remembered on disk as soon as they exist."""

    def __init__(self, home: Home, generation: int, timeout_s: float) -> None:
        self.home = home
        self.processes: list[Process] = []
        self._generation = generation
        self._timeout_s = timeout_s
        self._deadline_s = time.monotonic() + timeout_s

    @property
    def state(self) -> State:
        return State(tuple(self.processes), self._generation)

    def start(self, services: Sequence[Service]) -> list[str]:
        """Start services and return their addresses once all have announced them."""
        for service in services:
            self.processes.append(start(service, self.home))
            write_state(self.home, self.state)
        names = {service.name for service in services}
        self.wait(lambda: self._all_announced(names), "to listen")
        return [process.address for process in self.processes if process.name in names]

    def wait(
        self, done: Callable[[], bool], what: str, why: Callable[[], str] = lambda: ""
    ) -> None:
        """Wait for a condition.

        Args:
            done: the condition.
            what: the processes are waited for to do.
            why: says what they wait for themselves, asked when the time is over.

        Raises:
            CommandError: a process ended, or the time is over.
        """
        while not done():
            self._require_all_alive()
            if time.monotonic() > self._deadline_s:
                reason = why()
                raise CommandError(
                    f"waited {self._timeout_s:g} s for the processes {what}"
                    f"{f' ({reason})' if reason else ''}; their logs are in "
                    f"{self.home.logs}; allow more time with --ready-timeout"
                )
            time.sleep(POLL_S)

    def why_blocked(self) -> str:
        """Return what the gateway, started last, waits for."""
        return why_blocked(self.processes[-1].http_address).message

    def _all_announced(self, names: set[str]) -> bool:
        for place, process in enumerate(self.processes):
            if process.name in names and not process.address:
                self.processes[place] = announced(process, self.home) or process
        return all(process.address for process in self.processes if process.name in names)

    def _require_all_alive(self) -> None:
        for process in self.processes:
            status = reap(process)
            if not process.alive:
                raise CommandError(f"{process.name}: {why_it_ended(process, status)}")


def _start_in_order(
    starting: _Starting, manifest: Manifest, bundle: Path, options: UpOptions
) -> State:
    with _spinner(f"starting encoder, {manifest.num_shards} shards and gateway"):
        encoder, *shards = starting.start(
            [_encoder(bundle, options.reranker), *_shards(starting.home, manifest.num_shards)]
        )
        (gateway,) = starting.start([_gateway(starting.home, options, encoder, shards)])
        write_state(starting.home, starting.state)
        for address in (encoder, *shards):
            starting.wait(lambda address=address: is_serving(address), "to serve")  # type: ignore[misc]
        starting.wait(lambda: _serves(starting.processes[-1]), "to serve", starting.why_blocked)
        starting.wait(lambda: _answers_a_search(gateway), "to answer a search")
    return starting.state


def _encoder(bundle: Path, reranker: Path | None) -> Service:
    settings = {"BUNDLE": str(bundle), "PORT": "0", "HTTP_PORT": "0"}
    if reranker is not None:
        settings["RERANKER_BUNDLE"] = str(reranker.absolute())
    return Service("encoder", "encoder_service", "VITRINE_ENCODER_", settings)


def _shards(home: Home, num_shards: int) -> Iterator[Service]:
    for shard in range(num_shards):
        settings = {
            "SHARD": str(shard),
            "GENERATIONS": str(home.generations),
            "PORT": "0",
            "HTTP_PORT": "0",
        }
        yield Service("shard", "index_service", "VITRINE_INDEX_", settings, shard)


def _gateway(home: Home, options: UpOptions, encoder: str, shards: Sequence[str]) -> Service:
    settings = {
        "HOST": options.host,
        "PORT": str(options.port),
        "HTTP_PORT": str(options.http_port),
        "ENCODER": encoder,
        "SHARDS": ",".join(shards),
        "CATALOG": options.catalog or home.catalog_url,
        "GENERATIONS": str(home.generations),
    }
    return Service("gateway", "gateway", "VITRINE_GATEWAY_", settings)


def _serves(gateway: Process) -> bool:
    """Tell whether the gateway serves.

    Raises:
        CommandError: it never will, for a reason that waiting does not cure.
    """
    if is_serving(gateway.address):
        return True
    blocked = why_blocked(gateway.http_address)
    if remedy := _REMEDIES.get(blocked.reason):
        raise CommandError(f"{blocked.message}; {remedy}")
    return False


def _answers_a_search(address: str) -> bool:
    """Tell whether a search over all shards is answered now."""
    request = search_pb2.SearchRequest(text=PROBE_TEXT, top_k=1, min_coverage=1.0, fields=["none"])
    try:
        with connect(address) as channel:
            search_pb2_grpc.SearchServiceStub(channel).Search(request, timeout=PROBE_TIMEOUT_S)
    except grpc.RpcError:
        return False
    return True


def _require_down(home: Home) -> None:
    state = read_state(home)
    if not state.alive:
        forget_state(home)
        return
    gateway = state.gateway()
    where = f" with its gateway at {gateway.address}" if gateway else ""
    raise CommandError(
        f"{home.path} is up already{where}; see `vitrine status --home {home.path}`, or stop it "
        f"with `vitrine down --home {home.path}`"
    )


def _require_free_port(host: str, port: int) -> None:
    try:
        bind(host, port).close()
    except OSError as exc:
        raise CommandError(
            f"cannot listen on {authority(host, port)}: {exc.strerror}; choose another with "
            "--port, 0 takes a free one"
        ) from exc


def _still_running(home: Home, processes: Sequence[Process]) -> list[Process]:
    """Return the processes that run; say which have ended, unless all are being stopped."""
    left = []
    for process in processes:
        status = reap(process)
        if process.alive:
            left.append(process)
        elif not _is_stopping(home):
            say(
                f"{process.name} (pid {process.pid}) ended: {why_it_ended(process, status)}\n"
                f"  its log is {process.log}; the others go on; to start it again: "
                f"`vitrine down --home {home.path}` and `vitrine up --home {home.path}`"
            )
    return left


def _is_stopping(home: Home) -> bool:
    state = read_state(home)
    return state.stopping or not state.processes


@contextmanager
def _spinner(message: str) -> Iterator[None]:
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(message):
            yield
    else:
        yield
