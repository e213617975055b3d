"""`vitrine demo`: everything once, from a model to ranked items, on a sample catalogue."""

import sys
from dataclasses import dataclass
from pathlib import Path

from cli.build import BuildOptions, build
from cli.home import Home
from cli.processes import Process, State
from cli.search import SearchOptions, grpcurl_line, print_response, search
from cli.signals import stop_signals_ignored, stop_signals_interrupt
from cli.stages import run_stage
from cli.tables import rows_table, stdout
from cli.up import UpOptions, bring_up, say, stay_up, take_down
from rpc.active import read_active
from rpc.terminal import CommandError

DEFAULT_HOME = Path(".vitrine/demo")
MODEL = "all-MiniLM-L6-v2"
NUM_SHARDS = 4
TOP_K = 5
TEXTS = (
    "warm coat for freezing winter days",
    "elegant outfit for a summer wedding",
    "comfortable shoes to run in the rain",
)


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What `vitrine demo` can be told."""

    port: int = 7700
    once: bool = False


def run_demo(home: Home, options: DemoOptions) -> None:
    """Make what is missing, start everything, search, and stay up until Ctrl-C.

    Raises:
        CommandError: a step failed, or it was interrupted; running it again goes on from there.
    """
    home.path.mkdir(parents=True, exist_ok=True)
    bundle = _make_bundle(home)
    items = _make_items(home)
    _make_generation(home, bundle, items)
    say("starting encoder, index services and gateway")
    with stop_signals_interrupt():
        state = bring_up(home, UpOptions(port=options.port))
        try:
            _show(home, state, once=options.once)
        except BaseException as exc:
            with stop_signals_ignored():
                take_down(home)
            if isinstance(exc, KeyboardInterrupt):
                raise CommandError("the demo was interrupted; nothing is left running") from None
            raise


def _show(home: Home, state: State, *, once: bool) -> None:
    """Search, say where everything listens, and stop at once or when asked to."""
    gateway = state.processes[-1]
    sys.stdout.write(f"ready: gateway {gateway.address}\n")
    _show_searches(gateway.address)
    _show_where(state, home)
    if once:
        take_down(home)
    else:
        say("everything stays up until Ctrl-C")
        stay_up(home, state)


def _make_bundle(home: Home) -> Path:
    bundle = home.path / "sample" / "minilm-int8"
    if (bundle / "encoder.json").exists():
        say(f"reusing the encoder bundle in {bundle}")
        return bundle
    say(f"exporting {MODEL} as an INT8 encoder bundle")
    bundle.parent.mkdir(parents=True, exist_ok=True)
    arguments = ["--model", MODEL, "--out", f"{bundle}", "--quantize", "int8"]
    run_stage("training.export", arguments)
    return bundle


def _make_items(home: Home) -> Path:
    folder = home.path / "sample" / "catalog"
    items = folder / "items.jsonl.gz"
    if items.exists():
        say(f"reusing the sample catalogue in {folder}")
        return items
    say("making a sample fashion catalogue")
    run_stage("training.sample_catalog", ["--out", f"{folder}"])
    return items


def _make_generation(home: Home, bundle: Path, items: Path) -> None:
    if generation := read_active(str(home.generations)).generation:
        say(f"reusing generation {generation}")
        return
    say(f"building a generation with {NUM_SHARDS} shards")
    report = build(
        home, BuildOptions(bundle=bundle, items=[items], shards=NUM_SHARDS, promote=True)
    )
    stdout().print(rows_table(report.rows(), title=f"generation {report.generation}"))


def _show_searches(address: str) -> None:
    """Run three text queries and one more-like-these, each with the line that repeats it."""
    best = ""
    for text in TEXTS:
        found = _show_search(SearchOptions(text=text, top_k=TOP_K), address, f'"{text}"')
        best = best or found
    _show_search(SearchOptions(like=[best], top_k=TOP_K), address, f"more like {best}")


def _show_search(options: SearchOptions, address: str, title: str) -> str:
    """Show one search; return its best item."""
    response = search(options, address)
    sys.stdout.write("\n")
    print_response(response, title)
    sys.stdout.write(f"{grpcurl_line(options, address)}\n")
    sys.stdout.flush()
    return response.results[0].item_id


def _show_where(state: State, home: Home) -> None:
    rows = [
        {
            "process": process.name,
            "gRPC": process.address,
            "health page": f"http://{process.http_address}/",
            "metrics": f"http://{process.http_address}/metrics",
        }
        for process in _gateway_first(state)
    ]
    sys.stdout.write("\n")
    stdout().print(rows_table(rows, title="where everything listens"))
    sys.stdout.write(f"logs: {home.logs}\n")
    sys.stdout.flush()


def _gateway_first(state: State) -> list[Process]:
    return sorted(state.processes, key=lambda process: process.role != "gateway")
