"""Export a sentence-transformers bi-encoder or cross-encoder as an encoder bundle.

`python -m training.export --model PATH_OR_ID --out DIR`; `vitrine bundle export` runs this.
"""

import logging
import os
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from rpc.terminal import CommandError, errors_as_sentences, print_result
from training import bundle_files
from training.bi_encoder import bi_encoder_files
from training.cross_encoder import cross_encoder_files
from training.export_options import TARGET_AGREEMENT, ExportOptions, require_template
from training.model_source import find_model, kind_of

_FILES_OF = {
    bundle_files.BI_ENCODER: bi_encoder_files,
    bundle_files.CROSS_ENCODER: cross_encoder_files,
}


def export(options: ExportOptions) -> dict[str, Any]:
    """Write an encoder bundle and return its encoder.json.

    Raises:
        CommandError: the model is of neither kind, the graph differs from the model, or INT8 loses
            too much of its meaning.
    """
    require_template(options.item_template)
    bundle_files.require_replaceable(options.out)
    source = find_model(options.model)
    kind = kind_of(source)
    logging.getLogger("vitrine").info("model source: %s, %s", source.description, kind)
    files, description = _FILES_OF[kind](options, source)
    return bundle_files.write_bundle(options.out, files, description)


def _parsed_dims(written: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in written.split(",")) if written else ()
    except ValueError as exc:
        raise CommandError(
            f"--matryoshka-dims is {written!r}; numbers with commas are needed, as 128,256"
        ) from exc


def _quiet_libraries() -> None:
    """Keep the progress of this command readable: no bars and warnings of others in between."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore")
    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    logging.getLogger("vitrine").setLevel(logging.INFO)


def main(
    model: Annotated[str, typer.Option(help="Folder or hub id of a bi-encoder or cross-encoder.")],
    out: Annotated[Path, typer.Option(help="Folder to write the bundle to.")],
    quantize: Annotated[
        Literal["int8", "none"], typer.Option(help="Weights in the bundle.")
    ] = "int8",
    item_template: Annotated[str, typer.Option(help="How an item becomes text.")] = "{title}",
    max_tokens: Annotated[
        int | None, typer.Option(help="Cut texts after this many tokens.")
    ] = None,
    query_prompt: Annotated[str | None, typer.Option(help="Text put before each query.")] = None,
    item_prompt: Annotated[str | None, typer.Option(help="Text put before each item.")] = None,
    name: Annotated[str | None, typer.Option(help="Name for people.")] = None,
    target: Annotated[
        float,
        typer.Option(
            help="Mean cosine, or correlation of scores, with full precision to aim at.",
            min=0.0,
            max=1.0,
        ),
    ] = TARGET_AGREEMENT,
    matryoshka_dims: Annotated[
        str | None, typer.Option(help="Shorter lengths the model was trained for, as 128,256.")
    ] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Texts to calibrate with, one a line; default: generated.")
    ] = None,
    judgements: Annotated[
        Path | None, typer.Option(help="BEIR folder to measure retrieval on, FP32 against INT8.")
    ] = None,
    force: Annotated[
        str | None,
        typer.Option(metavar="REASON", help="Publish below the quality gate; the reason is kept."),
    ] = None,
) -> None:
    """Export a sentence-transformers model as an encoder bundle."""
    _quiet_libraries()
    with errors_as_sentences():
        encoder = export(
            ExportOptions(
                model=model,
                out=out,
                quantization=quantize,
                item_template=item_template,
                max_tokens=max_tokens,
                query_prompt=query_prompt,
                item_prompt=item_prompt,
                name=name,
                target=target,
                matryoshka_dims=_parsed_dims(matryoshka_dims),
                calibration=calibration,
                judgements=judgements,
                force_reason=force,
            )
        )
        print_result({"bundle": str(out), **encoder})


if __name__ == "__main__":
    typer.run(main)
