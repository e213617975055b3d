"""`python -m index_service.generation list|inspect|verify`: generations on disk, as JSON."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from index_service.generation.manifest import (
    generation_folder,
    published_generations,
    read_manifest,
)
from index_service.generation.verify import verify
from rpc.active import read_active
from rpc.errors import VitrineError
from rpc.terminal import CommandError, errors_as_sentences, print_result

app = typer.Typer(add_completion=False, no_args_is_help=True)

GenerationsFolder = Annotated[Path, typer.Option("--generations", help="Folder of generations.")]
Number = Annotated[int, typer.Argument(min=0, help="The generation; 0 means the promoted one.")]


@app.command("list")
def list_generations(generations: GenerationsFolder) -> None:
    """Print every published generation, the promoted one and the one before it."""
    with errors_as_sentences():
        active = read_active(str(generations))
        entries = [_summary(generations, number) for number in published_generations(generations)]
        print_result(
            {"generations": entries, "active": active.generation, "previous": active.previous}
        )


@app.command("inspect")
def inspect_generation(generations: GenerationsFolder, generation: Number = 0) -> None:
    """Print a generation's manifest."""
    with errors_as_sentences():
        folder = _folder(generations, generation)
        manifest = read_manifest(folder)
        print_result({**asdict(manifest), "path": str(folder), "bytes": manifest.size_bytes})


@app.command("verify")
def verify_generation(generations: GenerationsFolder, generation: Number = 0) -> None:
    """Check size and SHA-256 of every file of a generation."""
    with errors_as_sentences():
        folder = _folder(generations, generation)
        started_s = time.perf_counter()
        manifest = read_manifest(folder)
        size = verify(folder, manifest)
        print_result(
            {
                "generation": manifest.generation,
                "verified": True,
                "files": len(manifest.files_by_path()),
                "bytes": size,
                "seconds": round(time.perf_counter() - started_s, 3),
            }
        )


def _folder(generations: Path, generation: int) -> Path:
    number = generation or read_active(str(generations)).generation
    if not number:
        raise CommandError(
            f"no generation is promoted in {generations}; name one: "
            f"{', '.join(map(str, published_generations(generations))) or 'there is none'}"
        )
    return generations / generation_folder(number)


def _summary(generations: Path, number: int) -> dict[str, Any]:
    """Return what a list shows of a generation; a damaged one is shown with its error."""
    try:
        manifest = read_manifest(generations / generation_folder(number))
    except VitrineError as exc:
        return {"generation": number, "error": str(exc)}
    return {
        "generation": number,
        "created_at": manifest.created_at,
        "items": manifest.items,
        "shards": manifest.num_shards,
        "bytes": manifest.size_bytes,
        "seq": manifest.seq,
        "encoder_id": manifest.encoder.encoder_id,
        "encoder": manifest.encoder.name,
        "ann_recall_at_10": manifest.gate.ann_recall_at_10,
        "required_ann_recall_at_10": manifest.gate.required_ann_recall_at_10,
        "ef_search": manifest.gate.ef_search,
    }


if __name__ == "__main__":
    app()
