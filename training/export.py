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
from training.bi_encoder import bi_encoder_content
from training.cross_encoder import cross_encoder_content
from training.export_options import (
    LOSS_MAX,
    TARGET_AGREEMENT,
    ExportOptions,
    require_template,
)
from training.item_bundle import require_item_bundle
from training.model_source import find_model, kind_of

_CONTENT_OF = {
    bundle_files.BI_ENCODER: bi_encoder_content,
    bundle_files.CROSS_ENCODER: cross_encoder_content,
}


def export(options: ExportOptions) -> dict[str, Any]:
    """Write an encoder bundle, and the one for its items where asked; return its encoder.json.

    Raises:
        CommandError: the model is of neither kind, the graph differs from the model, or INT8 loses
            too much of its meaning.
    """
    require_template(options.item_template)
    require_item_bundle(options)
    for folder in filter(None, (options.out, options.item_bundle)):
        bundle_files.require_replaceable(folder)
    source = find_model(options.model)
    kind = kind_of(source)
    logging.getLogger("vitrine").info("model source: %s, %s", source.description, kind)
    made = _CONTENT_OF[kind](options, source)
    if options.item_bundle is not None and (items := made.item_content) is not None:
        bundle_files.write_bundle(options.item_bundle, items.files, items.description)
    return bundle_files.write_bundle(options.out, made.files, made.description)


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
    loss_max: Annotated[
        float,
        typer.Option(help="Largest share of recall@10 or ndcg@10 that may be lost there.", min=0.0),
    ] = LOSS_MAX,
    item_bundle: Annotated[
        Path | None,
        typer.Option(help="Folder for a second bundle, in FP32, to embed items with."),
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
                loss_max=loss_max,
                item_bundle=item_bundle,
                force_reason=force,
            )
        )
        written = {"bundle": str(out)} | ({"item_bundle": str(item_bundle)} if item_bundle else {})
        print_result(written | encoder)


if __name__ == "__main__":
    typer.run(main)
