"""Whether the encoder service's memory stays flat: mixed lengths, both lanes, callers that leave.

Starts the service on a bundle and calls it at a bounded rate with texts of 1 to twice max_tokens
words, queries and items, some withdrawn midway; notes the service's resident memory meanwhile.
Writes benchmarks/results/NAME.json and docs/images/NAME.png.

    python -m benchmarks.encoder_soak --bundle DIR                # 30 minutes
"""

import argparse
import asyncio
import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import matplotlib as mpl
import psutil
from matplotlib import pyplot as plt

from benchmarks.encoder_load import running_process
from benchmarks.report import machine, write_result
from protos.vitrine.v1 import encoder_pb2, encoder_pb2_grpc, types_pb2

IMAGES = Path(__file__).parent.parent / "docs" / "images"
WORDS = (
    "warm", "red", "cordless", "garden", "leather", "kids", "boots", "drill", "✓", "café", "冬の靴",
    "ботинки",
)  # fmt: skip
KINDS = (types_pb2.TEXT_KIND_QUERY, types_pb2.TEXT_KIND_ITEM)
MIB = 1024 * 1024


def main() -> None:
    """Soak, draw, write."""
    mpl.use("Agg")
    options = _parser().parse_args()
    figures: dict[str, Any] = {"machine": machine()}
    quiet = {"VITRINE_ENCODER_LOG_LEVEL": "warning"}
    with running_process(options.bundle, **quiet) as (address, pid):
        figures |= asyncio.run(soak(address, psutil.Process(pid), options))
    draw(figures, IMAGES / f"{options.name}.png")
    print(json.dumps({key: figures[key] for key in figures.keys() - {"resident_mib"}}, indent=2))
    print(f"written to {write_result(options.name, figures)}")


async def soak(
    address: str, process: psutil.Process, options: argparse.Namespace
) -> dict[str, Any]:
    """Call for so many minutes; return what was called and how memory went."""
    rng = random.Random(1)
    outcomes: Counter[str] = Counter()
    resident: list[tuple[float, float]] = []
    async with grpc.aio.insecure_channel(address) as channel:
        stub = encoder_pb2_grpc.EncoderServiceStub(channel)
        about = await stub.DescribeEncoder(encoder_pb2.DescribeEncoderRequest())
        started_s = time.monotonic()
        until_s = started_s + options.minutes * 60

        async def caller(number: int) -> None:
            own = random.Random(number)
            while time.monotonic() < until_s:
                outcomes[await _call(stub, own, about.max_tokens)] += 1
                await asyncio.sleep(own.expovariate(options.calls_per_s / options.callers))

        async def watcher() -> None:
            while time.monotonic() < until_s:
                minutes = (time.monotonic() - started_s) / 60
                resident.append((round(minutes, 3), round(process.memory_info().rss / MIB, 1)))
                await asyncio.sleep(options.sample_s)

        await asyncio.gather(
            watcher(), *(caller(rng.randrange(2**32)) for _ in range(options.callers))
        )
    return _figures(options, about, outcomes, resident)


async def _call(stub: Any, rng: random.Random, max_tokens: int) -> str:
    """Make one call of mixed lengths; one in ten is withdrawn after a moment."""
    kind = rng.choice(KINDS)
    texts = [
        " ".join(rng.choices(WORDS, k=rng.randint(1, 2 * max_tokens)))
        if rng.random() < 0.3
        else " ".join(rng.choices(WORDS, k=rng.randint(1, 12)))
        for _ in range(1 if kind == types_pb2.TEXT_KIND_QUERY else rng.randint(1, 6))
    ]
    call = stub.Encode(encoder_pb2.EncodeRequest(texts=texts, kind=kind), timeout=20)
    if rng.random() < 0.1:
        asyncio.get_running_loop().call_later(rng.uniform(0, 0.05), call.cancel)
    try:
        await call
    except asyncio.CancelledError:
        return "withdrawn"
    except grpc.aio.AioRpcError as exc:
        return str(exc.code().name)
    return "OK"


def _figures(
    options: argparse.Namespace,
    about: encoder_pb2.DescribeEncoderResponse,
    outcomes: Counter[str],
    resident: list[tuple[float, float]],
) -> dict[str, Any]:
    values = [mib for _, mib in resident]
    tenth = max(1, len(values) // 10)
    early, late = values[tenth : 2 * tenth], values[-tenth:]
    return {
        "model": about.name,
        "quantization": about.quantization,
        "minutes": options.minutes,
        "calls": dict(outcomes),
        "mib_at_serving": values[0],
        "mib_second_tenth_mean": round(sum(early) / len(early), 1),
        "mib_last_tenth_mean": round(sum(late) / len(late), 1),
        "mib_most": max(values),
        "resident_mib": resident,
    }


def draw(figures: dict[str, Any], path: Path) -> None:
    """Draw resident memory over time."""
    minutes, mib = zip(*figures["resident_mib"], strict=True)
    figure, axes = plt.subplots(figsize=(8, 3.5), layout="constrained")
    axes.plot(minutes, mib)
    axes.set(
        xlabel="minutes",
        ylabel="resident MiB",
        ylim=(0, max(mib) * 1.2),
        title=f"encoder service, {figures['model']} {figures['quantization']}: "
        f"{sum(figures['calls'].values()):,} calls of mixed lengths",
    )
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--calls-per-s", type=float, default=12.0, help="of all callers together")
    parser.add_argument("--sample-s", type=float, default=5.0)
    parser.add_argument("--name", default="encoder_soak", help="name of the result files")
    return parser


if __name__ == "__main__":
    main()
