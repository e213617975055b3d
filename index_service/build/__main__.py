"""`python -m index_service.build`: a work folder in, a published generation out."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from index_service.build.generation import (
    DEFAULT_EF_CONSTRUCTION,
    DEFAULT_M,
    BuildSettings,
    build_generation,
)
from rpc.terminal import CommandError, errors_as_sentences, print_result


def main(
    work: Annotated[Path, typer.Option(help="Folder with items, vectors and probe queries.")],
    generations: Annotated[Path, typer.Option(help="Folder that generations are published in.")],
    shards: Annotated[int, typer.Option(min=1, max=1024, help="How many shards to cut into.")],
    m: Annotated[
        int | None,
        typer.Option(min=4, max=256, help=f"Links a node in the HNSW graph; default {DEFAULT_M}."),
    ] = None,
    ef_construction: Annotated[
        int, typer.Option(min=8, max=4096, help="Candidates kept while building the graph.")
    ] = DEFAULT_EF_CONSTRUCTION,
    code_dim: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65536,
            help="Dimensions of the codes that the graph is searched by; default: as few as keep "
            "97 % of the vectors' squared length.",
        ),
    ] = None,
    required_recall: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Least ann_recall@10 to be promoted with.")
    ] = 0.99,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune",
            help="Try values of m and code_dim on a sample and build with the fastest that reaches "
            "the recall; tuning.json and tuning.png of the generation show all.",
        ),
    ] = False,
    ray: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Work on the Ray cluster there, host:port, or on one started here: local. All its "
            "machines must see both folders.",
        ),
    ] = "",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the graphs' random levels.")] = 1,
) -> None:
    """Build every shard's index files, measure their recall, publish them as a generation."""
    settings = BuildSettings(
        num_shards=shards,
        m=m or DEFAULT_M,
        ef_construction=ef_construction,
        code_dim=code_dim,
        required_recall=required_recall,
        seed=seed,
        tune=tune,
        ray=ray,
    )
    with errors_as_sentences():
        if tune and (m is not None or code_dim is not None):
            raise CommandError("--tune finds --m and --code-dim itself; leave them out")
        print_result(asdict(build_generation(work, generations, settings)))


if __name__ == "__main__":
    typer.run(main)
