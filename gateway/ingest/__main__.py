"""The command `python -m gateway.ingest`."""

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gateway.ingest.mapping import parse_map_option, read_mapping
from gateway.ingest.run import IngestRequest, infer_file, ingest
from rpc.terminal import CommandError, errors_as_sentences, print_result


class FormatName(StrEnum):
    """The formats that can be asked for."""

    AUTO = "auto"
    VITRINE = "vitrine"
    AMAZON = "amazon"
    FLAT = "flat"


class OnError(StrEnum):
    """What happens to a record that cannot be used."""

    STOP = "stop"
    SKIP = "skip"


def main(
    files: Annotated[list[Path], typer.Argument(help="JSONL, CSV (both also .gz) or Parquet.")],
    catalog: Annotated[
        str,
        typer.Option(
            envvar="VITRINE_CATALOG",
            help="sqlite:///ABSOLUTE/PATH or postgresql://... to write to.",
        ),
    ] = "",
    mapping: Annotated[
        Path | None, typer.Option(help="TOML file that says which column is what.")
    ] = None,
    map_: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            help="FIELD=COLUMN; FIELD is item_id, title, texts.NAME or attributes.NAME[:KIND].",
        ),
    ] = None,
    format_: Annotated[
        FormatName, typer.Option("--format", help="How records are laid out.")
    ] = FormatName.AUTO,
    on_error: Annotated[
        OnError, typer.Option(help="Stop at the first bad record, or skip and count it.")
    ] = OnError.STOP,
    replace: Annotated[
        bool, typer.Option("--replace", help="Remove the items that are in none of the files.")
    ] = False,
    print_mapping: Annotated[
        bool, typer.Option("--print-mapping", help="Print the mapping as TOML and do no more.")
    ] = False,
) -> None:
    """Write the products in files into the catalogue."""
    with errors_as_sentences():
        request = IngestRequest(
            files=files,
            format=format_.value,
            mapping=read_mapping(mapping) if mapping else None,
            mapped_fields=[parse_map_option(option) for option in map_ or ()],
            on_error=on_error.value,
            replace=replace,
        )
        _check_options(request)
        if print_mapping:
            typer.echo(infer_file(request).to_toml())
        elif not catalog:
            raise CommandError("--catalog is missing; name one as sqlite:///ABSOLUTE/PATH")
        else:
            print_result(asdict(ingest(request, catalog)))


def _check_options(request: IngestRequest) -> None:
    if request.mapping is not None and request.mapped_fields:
        raise CommandError("--mapping and --map exclude each other; put the columns in the file")
    if request.names_columns and request.format in ("vitrine", "amazon"):
        raise CommandError(f"--format {request.format} has fixed fields; leave --map/--mapping out")


if __name__ == "__main__":
    typer.run(main)
