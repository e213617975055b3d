"""What taking many calls at once is worth: the stock accept loop of grpc.aio against ours.

A front server answers each call by asking a back server, and concurrent calls share what they ask,
as a gateway does. The back server works 0.5 ms a call and 0.2 ms a question. Same load, same cores,
rounds interleaved; prints calls a second and how many questions travelled together.

    python -m benchmarks.accept
"""

import argparse
import asyncio
import multiprocessing
import time
from collections.abc import Hashable, Sequence
from typing import Any

import grpc

from benchmarks.in_process import pretty
from benchmarks.report import machine, median, write_result
from gateway.coalesce import Batch, Coalescer
from protos.vitrine.v1 import encoder_pb2, encoder_pb2_grpc
from rpc.deadlines import Deadline
from rpc.eager_accept import eager_server

WORK_A_CALL_S = 0.0005
WORK_A_QUESTION_S = 0.0002
OPTIONS = (("grpc.so_reuseport", 0),)


class Back(encoder_pb2_grpc.EncoderServiceServicer):
    """Works for as long as the questions take."""

    async def Encode(  # noqa: N802
        self, request: encoder_pb2.EncodeRequest, _: Any
    ) -> encoder_pb2.EncodeResponse:
        """Spin, as inference would."""
        end_s = time.perf_counter() + WORK_A_CALL_S + WORK_A_QUESTION_S * len(request.texts)
        while time.perf_counter() < end_s:
            pass
        return encoder_pb2.EncodeResponse(tokens=len(request.texts))


class Front(encoder_pb2_grpc.EncoderServiceServicer):
    """Asks the back server, together with whoever asks at the same time."""

    def __init__(self, back: str) -> None:
        self._back = encoder_pb2_grpc.EncoderServiceStub(grpc.aio.insecure_channel(back))
        self._calls: Coalescer[str, int] = Coalescer(
            "back", self._ask, calls_max=2, batch_max=64, waiting_max=1000
        )

    async def Encode(  # noqa: N802
        self, request: encoder_pb2.EncodeRequest, _: Any
    ) -> encoder_pb2.EncodeResponse:
        """Answer with how many questions travelled together."""
        together = await self._calls.submit(request.texts[0], Deadline.after(10))
        return encoder_pb2.EncodeResponse(tokens=together)

    async def _ask(self, _: Hashable, batch: Batch[str]) -> Sequence[int]:
        answer = await self._back.Encode(encoder_pb2.EncodeRequest(texts=batch.questions))
        return [answer.tokens] * len(batch.questions)


def serve(kind: str, back: str, port: Any) -> None:
    """Run one server until the process ends; put its port into `port`."""

    async def run() -> None:
        servicer = Front(back) if back else Back()
        server = eager_server((), OPTIONS) if kind == "eager" else grpc.aio.server(options=OPTIONS)
        encoder_pb2_grpc.add_EncoderServiceServicer_to_server(servicer, server)
        port.put(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        await server.wait_for_termination()

    asyncio.run(run())


async def load(address: str, callers: int, seconds: float) -> tuple[float, float]:
    """Return calls a second and the mean number of questions that travelled together."""
    together: list[int] = []
    async with grpc.aio.insecure_channel(address) as channel:
        encode = encoder_pb2_grpc.EncoderServiceStub(channel).Encode
        stop_s = time.perf_counter() + seconds

        async def call() -> None:
            while time.perf_counter() < stop_s:
                answer = await encode(encoder_pb2.EncodeRequest(texts=["x"]))
                together.append(answer.tokens)

        await asyncio.gather(*(call() for _ in range(callers)))
    return len(together) / seconds, sum(together) / len(together)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--callers", type=int, nargs="*", default=[1, 16, 64])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    figures: dict[str, Any] = {"machine": machine(), "runs": []}
    spawn = multiprocessing.get_context("spawn")
    ports = spawn.Queue()
    servers = {}

    def start(kind: str, back: str = "") -> str:
        process = spawn.Process(target=serve, args=(kind, back, ports), daemon=True)
        process.start()
        return f"127.0.0.1:{ports.get()}"

    back = start("eager")
    servers = {kind: start(kind, back) for kind in ("stock", "eager")}
    for callers in options.callers:
        seen: dict[str, list[tuple[float, float]]] = {kind: [] for kind in servers}
        for _ in range(options.rounds):
            for kind, address in servers.items():
                seen[kind].append(asyncio.run(load(address, callers, options.seconds)))
        pairs = zip(seen["eager"], seen["stock"], strict=True)
        run = {
            "callers": callers,
            **{
                kind: {
                    "calls_a_second": median([rate for rate, _ in rounds]),
                    "questions_a_call": median([together for _, together in rounds]),
                }
                for kind, rounds in seen.items()
            },
            "ratio_of_rates": median([eager / stock for (eager, _), (stock, _) in pairs], 2),
        }
        figures["runs"].append(run)
        print(pretty(run))
    print(f"written to {write_result('accept', figures)}")


if __name__ == "__main__":
    main()
