"""`vitrine bundle`: makes, shows and checks encoder bundles, in processes that hold the model."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
import typer

from cli.stages import command_line, run_stage
from cli.tables import key_value_table, stdout

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
FolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the bundle.")]

app = typer.Typer(no_args_is_help=True, help="Make, show and check encoder bundles.")


@app.command(epilog="Example: vitrine bundle export --model all-MiniLM-L6-v2 --out minilm-int8")
def export(
    model: Annotated[
        str,
        typer.Option(
            metavar="PATH_OR_ID",
            help="Folder or hub id of a sentence-transformers bi-encoder or cross-encoder.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write.")],
    quantize: Annotated[
        Literal["int8", "none"], typer.Option(help="Weights in 8 bits, or as they are.")
    ] = "int8",
    item_template: Annotated[
        str | None,
        typer.Option(help='Which fields of an item become its text, as "{title}. {brand}".'),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Cut texts after so many tokens; default: the model's limit.")
    ] = None,
    query_prompt: Annotated[
        str | None, typer.Option(help="Text put before each query; default: the model's own.")
    ] = None,
    item_prompt: Annotated[
        str | None, typer.Option(help="Text put before each item; default: the model's own.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name for people.")] = None,
    matryoshka_dims: Annotated[
        str | None,
        typer.Option(metavar="DIMS", help="Shorter lengths the model was trained for: 128,256."),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Texts to calibrate with, one a line."),
    ] = None,
    judgements: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="BEIR folder to measure on what INT8 loses."),
    ] = None,
    loss_max: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Largest share of recall@10 or ndcg@10 that INT8 may lose there; default: 0.01.",
        ),
    ] = None,
    item_bundle: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for a second bundle, in FP32: items by it, queries by the INT8 one.",
        ),
    ] = None,
    force: Annotated[
        str | None,
        typer.Option(
            metavar="REASON", help="Write it although INT8 loses too much; the reason is kept."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Export a model as an encoder bundle: ONNX graph, tokenizer, reference results."""
    options = {
        "--item-template": item_template,
        "--max-tokens": max_tokens,
        "--query-prompt": query_prompt,
        "--item-prompt": item_prompt,
        "--name": name,
        "--matryoshka-dims": matryoshka_dims,
        "--calibration": calibration,
        "--judgements": judgements,
        "--loss-max": loss_max,
        "--item-bundle": item_bundle,
        "--force": force,
    }
    arguments = ["--model", model, "--out", f"{out}", "--quantize", quantize]
    arguments += command_line(options)
    _run("training.export", arguments, as_json=as_json)


@app.command(epilog="Example: vitrine bundle inspect minilm-int8")
def inspect(folder: FolderArgument, as_json: JsonOption = False) -> None:
    """Show what a bundle is: model, size, prompts, what was measured."""
    _run("encoder_service.bundle", ["inspect", f"{folder}"], as_json=as_json)


@app.command(epilog="Example: vitrine bundle verify minilm-int8")
def verify(
    folder: FolderArgument,
    record: Annotated[
        bool, typer.Option("--record", help="Add this processor to those it was verified on.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check every file's sum, and the vectors or scores made here against those recorded."""
    arguments = ["verify", f"{folder}", *(["--record"] if record else [])]
    _run("encoder_service.bundle", arguments, as_json=as_json)


def _run(module: str, arguments: Sequence[str], *, as_json: bool) -> None:
    show(run_stage(module, arguments).values, as_json=as_json)


def show(values: dict[str, Any], *, as_json: bool) -> None:
    """Print a result for people or for programs."""
    if as_json:
        sys.stdout.write(orjson.dumps(values, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        stdout().print(key_value_table(values))
