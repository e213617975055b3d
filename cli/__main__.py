"""The `vitrine` command: what an operator does with a home and its services."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import orjson
import typer
from typer.core import TyperGroup

from cli import bundle, generation
from cli.arguments import number, spread
from cli.build import BuildOptions
from cli.build import build as build_generation
from cli.bundle import JsonOption, show
from cli.calls import DEFAULT_TIMEOUT_S, address_or_default
from cli.demo import DEFAULT_HOME as DEMO_HOME
from cli.demo import DemoOptions, run_demo
from cli.doctor import DEFAULT_PORT, examine
from cli.evaluation import EvalOptions, evaluate
from cli.home import DEFAULT_HOME, Home, HomeOption
from cli.processes import read_state
from cli.reshard import ReshardOptions
from cli.reshard import reshard as reshard_generation
from cli.search import SearchOptions, print_json, print_response
from cli.search import search as send_search
from cli.status import describe
from cli.tables import rows_table, status_table, stdout
from cli.up import READY_TIMEOUT_S, UpOptions, bring_up, say, stay_up, take_down
from rpc.server import software_version
from rpc.terminal import EXIT_FAILED, CommandError, errors_as_sentences


class _Commands(TyperGroup):
    """Commands that end with a sentence when they are interrupted."""

    def invoke(self, ctx: Any) -> Any:  # the type of ctx is private to Typer
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            # Typer would end with status 130 and say nothing.
            raise CommandError("interrupted; run the same command again to go on") from None


app = typer.Typer(
    name="vitrine",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Product search over gRPC: build an index from items, serve it, search it.",
)
app.add_typer(bundle.app, name="bundle")
app.add_typer(generation.app, name="generation")

CatalogOption = Annotated[
    str,
    typer.Option(
        envvar="VITRINE_CATALOG",
        metavar="URL",
        help="sqlite:///PATH or postgresql://...; default: SQLite in the home.",
    ),
]


@app.command(
    epilog="Example: vitrine build --items shoes.jsonl.gz --bundle minilm-int8 --home .vitrine "
    "--promote",
)
def build(
    bundle: Annotated[Path, typer.Option(metavar="DIR", help="The encoder bundle to embed with.")],
    items: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE...",
            help="JSONL, CSV (both also .gz) or Parquet; one or more files. Without any, the "
            "catalogue is built as it is.",
        ),
    ] = None,
    home: HomeOption = DEFAULT_HOME,
    shards: Annotated[int, typer.Option(min=1, max=1024, help="Cut the index into so many.")] = 4,
    promote: Annotated[
        bool, typer.Option("--promote", help="Let searches see it once it is built.")
    ] = False,
    catalog: CatalogOption = "",
    mapping: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.toml",
            help="Says which column is what; `python -m gateway.ingest FILE --print-mapping` "
            "prints one to start from.",
        ),
    ] = None,
    map_: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="FIELD=COLUMN...",
            help="The same for a few columns, as title=name attributes.price=price_usd.",
        ),
    ] = None,
    format_: Annotated[
        Literal["auto", "vitrine", "amazon", "flat"],
        typer.Option("--format", help="How records are laid out."),
    ] = "auto",
    on_error: Annotated[
        Literal["stop", "skip"], typer.Option(help="What a record that cannot be read does.")
    ] = "stop",
    replace: Annotated[
        bool, typer.Option("--replace", help="Remove items that are in none of the files.")
    ] = False,
    m: Annotated[int | None, typer.Option("--m", min=4, max=256, help="HNSW links a node.")] = None,
    ef_construction: Annotated[
        int | None, typer.Option(min=8, max=4096, help="HNSW candidates kept while building.")
    ] = None,
    code_dim: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=65536,
            help="Dimensions of the graph's codes; default: as few as keep recall.",
        ),
    ] = None,
    required_recall: Annotated[
        float | None,
        typer.Option(
            min=0.0, max=1.0, callback=number, help="Least ann_recall@10 to promote with."
        ),
    ] = None,
    queries: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.txt",
            help="Queries that shoppers ask, one a line: recall is measured with them, and the "
            "least effort chosen that finds enough; words of titles when left out.",
        ),
    ] = None,
    tune: Annotated[
        bool,
        typer.Option(
            "--tune",
            help="Try values of --m and --code-dim on a sample, build with the fastest that "
            "reaches the recall; tuning.json and tuning.png of the generation show the curves.",
        ),
    ] = False,
    ray: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Embed, and build shards, on the Ray cluster there, host:port; local starts one "
            "here.",
        ),
    ] = "",
    force_reason: Annotated[
        str, typer.Option(help="Why it is promoted although its recall is below that.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Build a generation: items into the catalogue, embedded, indexed, published.

    Run it again after an interruption: it goes on where it stopped.
    """
    options = BuildOptions(
        bundle=bundle,
        items=items or (),
        shards=shards,
        catalog=catalog,
        mapping=mapping,
        map=map_ or (),
        format=format_,
        on_error=on_error,
        replace=replace,
        m=m,
        ef_construction=ef_construction,
        code_dim=code_dim,
        required_recall=required_recall,
        queries=queries,
        tune=tune,
        ray=ray,
        promote=promote,
        force_reason=force_reason,
    )
    report = build_generation(Home.at(home), options)
    if as_json:
        show(report.document(), as_json=True)
        return
    stdout().print(rows_table(report.rows()))
    promoted = "promoted" if report.promoted else "not promoted yet"
    typer.echo(
        f"generation {report.generation} is built with encoder {report.encoder_id}; {promoted}"
    )


@app.command(epilog="Example: vitrine reshard --home .vitrine --shards 8")
def reshard(
    shards: Annotated[int, typer.Option(min=1, max=1024, help="Cut the index into so many.")],
    home: HomeOption = DEFAULT_HOME,
    generation: Annotated[
        int, typer.Option(min=0, metavar="N", help="Which generation; default: the promoted one.")
    ] = 0,
    promote: Annotated[
        bool, typer.Option("--promote", help="Let the next `vitrine up` serve it.")
    ] = False,
    force_reason: Annotated[
        str, typer.Option(help="Why it is promoted although its recall is below its gate.")
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Cut a generation into another number of shards, as a new one; nothing is embedded again.

    Run it again after an interruption: it goes on where it stopped.
    """
    options = ReshardOptions(shards, generation, promote, force_reason)
    show(reshard_generation(Home.at(home), options), as_json=as_json)


@app.command(epilog="Example: vitrine up --home .vitrine --port 7700 --detach")
def up(
    home: HomeOption = DEFAULT_HOME,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The gateway's port; 0: any.")] = 7700,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return once it is ready; `vitrine down` stops it.")
    ] = False,
    host: Annotated[str, typer.Option(help="Address that the gateway listens on.")] = "127.0.0.1",
    http_port: Annotated[
        int, typer.Option(min=0, max=65535, help="The gateway's health page; 0: any.")
    ] = 0,
    bundle: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Another encoder bundle than the generation's own."),
    ] = None,
    reranker: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="A cross-encoder bundle, to serve Rerank with."),
    ] = None,
    catalog: CatalogOption = "",
    ready_timeout: Annotated[
        float,
        typer.Option(
            min=1, max=86_400, callback=number, help="Seconds to wait until a search is answered."
        ),
    ] = READY_TIMEOUT_S,
) -> None:
    """Start encoder, one index service a shard, and gateway; stay until Ctrl-C."""
    where = Home.at(home)
    options = UpOptions(
        host=host,
        port=port,
        http_port=http_port,
        catalog=catalog,
        bundle=bundle,
        reranker=reranker,
        ready_timeout_s=ready_timeout,
    )
    state = bring_up(where, options)
    typer.echo(f"ready: gateway {state.processes[-1].address}")
    sys.stdout.flush()
    if not detach:
        stay_up(where, state)


@app.command(epilog="Example: vitrine down --home .vitrine")
def down(home: HomeOption = DEFAULT_HOME) -> None:
    """Stop what `vitrine up` started: gateway, shards, encoder."""
    where = Home.at(home)
    ran = len(read_state(where).alive)
    for process in take_down(where):
        say(f"{process.name} (pid {process.pid}) did not end when asked and was killed")
    typer.echo(f"stopped {ran} processes" if ran else f"nothing was running for {where.path}")


@app.command(epilog="Example: vitrine status --home .vitrine --json")
def status(home: HomeOption = DEFAULT_HOME, as_json: JsonOption = False) -> None:
    """Show every process: role, shard, pid, addresses, health, generation, memory."""
    where = Home.at(home)
    found = describe(where)
    if as_json:
        show(found.document(), as_json=True)
    elif found.processes:
        stdout().print(status_table(found))
    else:
        typer.echo(f"nothing runs for {where.path}; start it: vitrine up --home {where.path}")


@app.command(
    epilog="Examples: vitrine search 'red summer dress' --filter 'price < 50 AND brand = \"Acme\"'"
    " | vitrine search --like B07XYZ --top-k 5",
)
def search(
    text: Annotated[str, typer.Argument(metavar="[TEXT]", help="What a shopper types.")] = "",
    address: Annotated[
        str | None,
        typer.Option(metavar="H:P", help="The gateway; default: the home's, else 127.0.0.1:7700."),
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Results wanted, 1..1000; default 10.")] = None,
    filter_: Annotated[
        str,
        typer.Option(
            "--filter",
            metavar="EXPR",
            help='As in: brand = "Acme" AND price < 50 AND color IN ("red", "pink").',
        ),
    ] = "",
    like: Annotated[
        list[str] | None,
        typer.Option(metavar="ITEM_ID...", help="Instead of a text: items to look like."),
    ] = None,
    unlike: Annotated[
        list[str] | None,
        typer.Option(metavar="ITEM_ID...", help="With --like: items not to look like."),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Scan every vector: exact, and far slower.")
    ] = False,
    ef_search: Annotated[int | None, typer.Option(help="How hard HNSW tries.")] = None,
    fields: Annotated[
        list[str] | None,
        typer.Option(metavar="FIELD...", help="title, texts, attributes.NAME, metadata, none."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.001, max=86_400, callback=number, help="Seconds to wait.")
    ] = DEFAULT_TIMEOUT_S,
    profile: Annotated[
        bool, typer.Option("--profile", help="Show how each shard found its hits.")
    ] = False,
    as_json: JsonOption = False,
    home: HomeOption = DEFAULT_HOME,
) -> None:
    """Search a running gateway by text, or for more like some items."""
    options = SearchOptions(
        text=text,
        like=like or (),
        unlike=unlike or (),
        top_k=top_k,
        filter=filter_,
        exact=exact,
        ef_search=ef_search,
        fields=fields or (),
        profile=profile,
    )
    response = send_search(options, address_or_default(address, Home.at(home)), timeout)
    if as_json:
        print_json(response)
    else:
        print_response(response)


@app.command(
    "eval",
    epilog="Example: vitrine eval --data data/fashion --system bm25 --system ours=minilm-int8 "
    "--system rrf:ours+bm25 --out reports/fashion",
)
def eval_(
    data: Annotated[Path, typer.Option(metavar="DIR", help="A judged data set, BEIR layout.")],
    system: Annotated[
        list[str],
        typer.Option(
            metavar="SYSTEM...",
            help="bm25, a bi-encoder, a bundle, PATH?dim=256, PATH?ef_search=64, rrf:A+B, "
            "weighted:A+B, rerank:A+PATH?depth=50; NAME=SYSTEM names it.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of report, results and runs.")],
    split: Annotated[str, typer.Option(help="Judgements to use: qrels/SPLIT.tsv.")] = "test",
    baseline: Annotated[
        str, typer.Option(help="System to compare the others with; default: the first.")
    ] = "",
    masked: Annotated[
        bool, typer.Option("--masked", help="Leave the words of the title out of the queries.")
    ] = False,
    cache: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of embeddings, kept by encoder and text.")
    ] = DEFAULT_HOME / "embeddings",
    record: Annotated[
        bool,
        typer.Option(
            "--record",
            help="Write into the bundles: fusion weights tuned on dev, query encoders that do.",
        ),
    ] = False,
    reranked_dev_queries: Annotated[
        int,
        typer.Option(
            min=0, help="Tune fusions with a reranking on so many queries of dev; 0: on all."
        ),
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Compare systems on a judged data set: recall, MRR, nDCG, and how sure the differences are."""
    options = EvalOptions(
        data, system, out, split, baseline, masked, cache, record, reranked_dev_queries
    )
    found = evaluate(options)
    show(found, as_json=as_json)


@app.command(epilog="Example: vitrine doctor --json")
def doctor(
    home: HomeOption = DEFAULT_HOME,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to look at.")] = DEFAULT_PORT,
    as_json: JsonOption = False,
) -> None:
    """Look at versions, processor, memory, limits and ports, and say what they mean."""
    rows = [finding.row() for finding in examine(Home.at(home), port)]
    if as_json:
        sys.stdout.write(orjson.dumps(rows, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        stdout().print(rows_table(rows))
    if any(row["verdict"] == "problem" for row in rows):
        raise typer.Exit(EXIT_FAILED)


@app.command(epilog="Example: vitrine demo --port 7800")
def demo(
    home: HomeOption = DEMO_HOME,
    port: Annotated[int, typer.Option(min=0, max=65535, help="The gateway's port; 0: any.")] = 7700,
    once: Annotated[bool, typer.Option("--once", help="Stop after the searches.")] = False,
) -> None:
    """Export a model, build a sample catalogue, start everything, search. Reuses what is there."""
    run_demo(Home.at(home), DemoOptions(port=port, once=once))


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(software_version())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; errors end as one sentence and status 1."""
    with errors_as_sentences():
        app(args=spread(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    main()
