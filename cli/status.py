"""`vitrine status`: what runs for a home, asked of the processes themselves."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import grpc

from cli.calls import HEALTH_TIMEOUT_S, connect, is_serving
from cli.home import Home
from cli.processes import Process, State, read_state
from protos.vitrine.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    encoder_pb2,
    encoder_pb2_grpc,
    index_pb2,
    index_pb2_grpc,
)
from rpc.active import read_active


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """How one process is.

    The generation is None where it holds none, or does not answer; `blocked_on` is what keeps a
    gateway from serving, or from following the pointer.
    """

    name: str
    role: str
    shard: int | None
    pid: int
    address: str
    http_address: str
    alive: bool
    serving: bool
    generation: int | None
    generations: tuple[int, ...]
    encoder_id: str
    blocked_on: str
    resident_bytes: int
    log: str


@dataclass(frozen=True, slots=True)
class HomeStatus:
    """How a home is: which generation is promoted (zero: none), and every process."""

    home: str
    running: bool
    generation: int
    processes: tuple[ProcessStatus, ...]

    def document(self) -> dict[str, object]:
        """Return it as JSON has it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a process says of itself."""

    generation: int | None = None
    generations: tuple[int, ...] = ()
    encoder_id: str = ""
    blocked_on: str = ""


def describe(home: Home) -> HomeStatus:
    """Ask every process how it is, all at the same time."""
    state = read_state(home)
    promoted = read_active(str(home.generations)).generation
    return HomeStatus(
        home=str(home.path),
        running=bool(state.alive),
        generation=promoted,
        processes=tuple(_describe_all(state, promoted)),
    )


def _describe_all(state: State, promoted: int) -> Sequence[ProcessStatus]:
    if not state.processes:
        return ()
    with ThreadPoolExecutor(len(state.processes), thread_name_prefix="status") as executor:
        return list(executor.map(lambda process: _describe(process, promoted), state.processes))


def _describe(process: Process, promoted: int) -> ProcessStatus:
    alive = process.alive
    answers = alive and bool(process.address)
    answer = _ask(process) if answers else _Answer()
    return ProcessStatus(
        name=process.name,
        role=process.role,
        shard=process.shard,
        pid=process.pid,
        address=process.address,
        http_address=process.http_address,
        alive=alive,
        serving=answers and is_serving(process.address),
        generation=promoted if promoted in answer.generations else answer.generation,
        generations=answer.generations,
        encoder_id=answer.encoder_id,
        blocked_on=answer.blocked_on,
        resident_bytes=process.resident_bytes(),
        log=process.log,
    )


def _ask(process: Process) -> _Answer:
    ask = {"encoder": _ask_encoder, "shard": _ask_shard, "gateway": _ask_gateway}[process.role]
    try:
        with connect(process.address) as channel:
            return ask(channel)
    except grpc.RpcError:
        return _Answer()


def _ask_encoder(channel: grpc.Channel) -> _Answer:
    stub = encoder_pb2_grpc.EncoderServiceStub(channel)
    answer = stub.DescribeEncoder(encoder_pb2.DescribeEncoderRequest(), timeout=HEALTH_TIMEOUT_S)
    return _Answer(encoder_id=answer.encoder_id)


def _ask_shard(channel: grpc.Channel) -> _Answer:
    stub = index_pb2_grpc.IndexServiceStub(channel)
    answer = stub.DescribeShard(index_pb2.DescribeShardRequest(), timeout=HEALTH_TIMEOUT_S)
    ready = [
        loaded for loaded in answer.generations if loaded.state == index_pb2.GENERATION_STATE_READY
    ]
    if not ready:
        return _Answer()
    numbers = tuple(loaded.generation for loaded in ready)
    return _Answer(numbers[-1], numbers, ready[-1].encoder_id)


def _ask_gateway(channel: grpc.Channel) -> _Answer:
    stub = admin_pb2_grpc.AdminServiceStub(channel)
    answer = stub.DescribeCluster(admin_pb2.DescribeClusterRequest(), timeout=HEALTH_TIMEOUT_S)
    held = (answer.generation, answer.previous_generation)
    return _Answer(
        answer.generation or None,
        tuple(sorted(number for number in held if number)),
        answer.encoder.encoder_id,
        answer.blocked_on,
    )
