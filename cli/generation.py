"""`vitrine generation`: what was built, what is served, and the moves between."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.arguments import utf8
from cli.bundle import JsonOption, show
from cli.calls import call, connect
from cli.home import DEFAULT_HOME, Home, HomeOption
from cli.offline import promote as promote_offline
from cli.offline import rollback as rollback_offline
from cli.processes import read_state
from cli.stages import run_stage
from cli.tables import rows_table, size, stdout
from protos.vitrine.v1 import admin_pb2, admin_pb2_grpc

# Every shard loads and verifies the generation before the switch.
PROMOTE_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Switch:
    """A change of the promoted generation, and whether a running gateway made it."""

    generation: int
    previous: int
    live: bool

    def sentence(self) -> str:
        """Say what happened."""
        before = f" (before: {self.previous})" if self.previous else ""
        if self.live:
            return f"searches now see generation {self.generation}{before}"
        return f"generation {self.generation} is promoted{before}; the next `vitrine up` serves it"


def promote(home: Home, generation: int, force_reason: str = "") -> Switch:
    """Promote a generation: through the gateway where one runs, else in the home's files.

    Raises:
        CommandError: the reason is not UTF-8.
        VitrineError: the generation is unknown, does not fit, or is below its recall gate.
    """
    utf8("--force-reason", force_reason)
    gateway = read_state(home).gateway()
    if gateway is None:
        active = promote_offline(home, generation, force_reason)
        return Switch(active.generation, active.previous, live=False)
    request = admin_pb2.PromoteGenerationRequest(generation=generation, force_reason=force_reason)
    with connect(gateway.address) as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        answer = call(stub.PromoteGeneration, request, gateway.address, PROMOTE_TIMEOUT_S)
    return Switch(answer.generation, answer.previous_generation, live=True)


def rollback(home: Home, reason: str = "") -> Switch:
    """Promote the generation that was promoted before.

    Raises:
        CommandError: the reason is not UTF-8.
        VitrineError: there is none.
    """
    utf8("--reason", reason)
    gateway = read_state(home).gateway()
    if gateway is None:
        active = rollback_offline(home, reason)
        return Switch(active.generation, active.previous, live=False)
    request = admin_pb2.RollbackGenerationRequest(reason=reason)
    with connect(gateway.address) as channel:
        stub = admin_pb2_grpc.AdminServiceStub(channel)
        answer = call(stub.RollbackGeneration, request, gateway.address, PROMOTE_TIMEOUT_S)
    return Switch(answer.generation, answer.previous_generation, live=True)


app = typer.Typer(no_args_is_help=True, help="List, check, promote and roll back generations.")

GenerationArgument = Annotated[int, typer.Argument(metavar="N", min=1, help="The generation.")]
GenerationOrPromoted = Annotated[
    int, typer.Argument(metavar="[N]", min=0, help="The generation; default: the promoted one.")
]


@app.command("list", epilog="Example: vitrine generation list --home .vitrine")
def list_generations(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """List the generations that were built, and which one searches see."""
    Home.at(home).require_there()
    values = _ask_files(home, "list")
    if as_json:
        show(values, as_json=True)
    elif not values["generations"]:
        sys.stdout.write(f"no generation is built in {home}; `vitrine build` makes one\n")
    else:
        stdout().print(rows_table([_row(each, values) for each in values["generations"]]))


@app.command(epilog="Example: vitrine generation inspect 1 --home .vitrine")
def inspect(
    generation: GenerationOrPromoted = 0,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Show a generation's manifest: encoder, shards, parameters, recall gate."""
    show(_ask_files(home, "inspect", str(generation)), as_json=as_json)


@app.command(epilog="Example: vitrine generation verify 1 --home .vitrine")
def verify(
    generation: GenerationOrPromoted = 0,
    home: HomeOption = DEFAULT_HOME,
    as_json: JsonOption = False,
) -> None:
    """Check every file of a generation against its manifest."""
    show(_ask_files(home, "verify", str(generation)), as_json=as_json)


@app.command("promote", epilog="Example: vitrine generation promote 2 --home .vitrine")
def promote_command(
    generation: GenerationArgument,
    home: HomeOption = DEFAULT_HOME,
    force_reason: Annotated[
        str, typer.Option(help="Why it is promoted although its recall is below its gate.")
    ] = "",
) -> None:
    """Let searches see a generation: at once where a gateway runs, else from the next start."""
    switch = promote(Home.at(home), generation, force_reason)
    sys.stdout.write(f"{switch.sentence()}\n")


@app.command("rollback", epilog="Example: vitrine generation rollback --home .vitrine")
def rollback_command(
    home: HomeOption = DEFAULT_HOME,
    reason: Annotated[str, typer.Option(help="Why, for the log of promotions.")] = "",
) -> None:
    """Go back to the generation that was promoted before."""
    sys.stdout.write(f"{rollback(Home.at(home), reason).sentence()}\n")


def _row(generation: Mapping[str, Any], listed: Mapping[str, Any]) -> dict[str, Any]:
    """Return what people see of one generation in a list."""
    number = generation["generation"]
    marks = {listed["active"]: "promoted", listed["previous"]: "previous"}
    row = {"generation": number, "state": marks.get(number, "")}
    if "error" in generation:
        return {**row, "damage": generation["error"]}
    recall, required = generation["ann_recall_at_10"], generation["required_ann_recall_at_10"]
    return {
        **row,
        "created": generation["created_at"][:19],
        "items": f"{generation['items']:,}",
        "shards": generation["shards"],
        "size": size(generation["bytes"]),
        "encoder": f"{generation['encoder']} {generation['encoder_id']}",
        "ann_recall@10": f"{recall:.4f} (required {required:g})",
        "ef_search": generation["ef_search"],
    }


def _ask_files(home: Path, *arguments: str) -> dict[str, Any]:
    generations = Home.at(home).generations
    where = ("--generations", str(generations))
    return run_stage("index_service.generation", [*arguments, *where]).values
