"""From review files to tables and bundles in one command; every stage goes on where it was.

`python -m training.reproduce --reviews FILE --items FILE --recipe RECIPE --out DIR` makes

    DIR/data/            the data set (training.dataset)
    DIR/runs/NAME/       a run for each recipe: model, run.json, curves.png (training.train)
    DIR/bundles/NAME/    its encoder bundle (training.export), with the weights to fuse it with BM25
    DIR/report/          all of them against BM25 and the models they started from
                         (training.evaluate), with the curves of the runs; and in
                         DIR/report-masked/ without the title's words

With `--distill RECIPE` a query encoder is trained in the space of `--teacher`, or else of the first
recipe's bundle (training.distill), exported, and measured over the teacher's items, whose bundle
lists it where it keeps enough.

With `--reranker RECIPE` a cross-encoder is trained on what the first recipe's model finds
(training.train_reranker), exported, and measured over that and over the weighted fusion.

With `--judgements FOLDER` all but the HNSW graphs is compared on that collection, too, in
DIR/report-FOLDER/: with the weights that dev of the reviews chose, and BM25's own defaults.

A recipe may start from what one before it leaves: its base is then `runs/NAME/model`.

A stage is done while what it was made of is the same: a bundle is exported again for another model
or --quantize, a run started again for another model of the recipe that it learns from. Other input
files are refused, and so is, before all, a recipe that its base cannot do.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from rpc.terminal import errors_as_sentences, print_result, warn
from training.bases import RUNS_FOLDER
from training.curves import CURVES_FILE
from training.dataset import DATASET_FILE, DatasetOptions, fields_of, make_dataset
from training.evaluate import EvaluateOptions, compare, recalls_of
from training.examples import read_examples
from training.inputs import require_same_inputs
from training.pairs import NUM_PAIRS
from training.recipe import AnyRecipe
from training.report import add_curves
from training.reproduce_plan import (
    MASKED_REPORT_FOLDER,
    REPORT_FOLDER,
    Plan,
    ReproduceOptions,
    judged_report_of,
    read_plan,
)
from training.reproduced_runs import make_bi_encoder, make_reranker, make_student
from training.reproduced_systems import as_chosen

RERANKED_DEV_QUERIES = 300
Recalls = dict[str, float | None]


def reproduce(options: ReproduceOptions) -> dict[str, Recalls]:
    """Run every stage that is not done yet; return recall@10 of every system, by report.

    Raises:
        CommandError: a file, a recipe or what lies in the folder does not fit.
    """
    plan = read_plan(options)
    require_same_inputs(
        options.out, options.reviews, options.items, options.num_pairs, options.item_fields
    )
    if not (options.data / DATASET_FILE).is_file():
        make_dataset(
            DatasetOptions(
                options.reviews,
                options.items,
                options.data,
                num_pairs=options.num_pairs,
                item_fields=options.item_fields,
            )
        )
    _require_categories(plan.all_recipes, options.data)
    for recipe in plan.recipes:
        make_bi_encoder(recipe, options)
    for student in plan.students:
        make_student(student, plan.teacher, options)
    if plan.reranker:
        make_reranker(plan.reranker, plan.recipes[0], options)
    return _compare_all(plan, options)


def _compare_all(plan: Plan, options: ReproduceOptions) -> dict[str, Recalls]:
    """Write every report; return recall@10 of every system, by report."""

    def report(folder: str, data: Path, systems: Sequence[str], **how: Any) -> dict[str, Any]:
        out = options.out / folder
        return compare(EvaluateOptions(data, systems, out, options.embeddings, **how))

    few = {"reranked_dev_queries": RERANKED_DEV_QUERIES}
    found = {REPORT_FOLDER: report(REPORT_FOLDER, options.data, plan.systems, record=True, **few)}
    for refused in found[REPORT_FOLDER].get("refused", ()):
        warn(refused)
    found[MASKED_REPORT_FOLDER] = report(
        MASKED_REPORT_FOLDER, options.data, plan.systems, masked=True, **few
    )
    runs = {each.name: options.out / RUNS_FOLDER / each.name for each in plan.all_recipes}
    curves = {name: run / CURVES_FILE for name, run in runs.items()}
    add_curves(options.out / REPORT_FOLDER, curves)
    for folder in options.judgements:
        systems = as_chosen(plan.systems, found[REPORT_FOLDER]["systems"])
        name = judged_report_of(folder)
        found[name] = report(name, folder, systems, baseline="bm25", tune=False)
    return {name: recalls_of(results) for name, results in found.items()}


def _require_categories(recipes: Sequence[AnyRecipe], data: Path) -> None:
    """Refuse a category to leave out that no pair has, before hours go into another recipe."""
    for section in (recipe.data for recipe in recipes):
        if section.except_category is not None:
            read_examples(data, section.pairs_max, section.except_category)


def main(
    reviews: Annotated[list[Path], typer.Option(help="Review files, .jsonl or .jsonl.gz.")],
    items: Annotated[list[Path], typer.Option(help="Item files, .jsonl or .jsonl.gz.")],
    recipe: Annotated[list[Path], typer.Option(help="Recipes, as training/recipes/paper.toml.")],
    out: Annotated[Path, typer.Option(help="Folder of all results; the same goes on with it.")],
    pairs: Annotated[int, typer.Option(min=1, help="The most pairs to choose.")] = NUM_PAIRS,
    quantize: Annotated[
        Literal["int8", "none"], typer.Option(help="Weights in the bundles.")
    ] = "int8",
    reranker: Annotated[
        Path | None, typer.Option(help="A recipe, as training/recipes/reranker-minilm.toml.")
    ] = None,
    distill: Annotated[
        list[Path] | None, typer.Option(help="Recipes, as training/recipes/distill-minilm.toml.")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="In whose space --distill is: folder, id or bundle; default: the first recipe's."
        ),
    ] = None,
    judgements: Annotated[
        list[Path] | None,
        typer.Option(help="BEIR folders to measure on, too; nothing is trained or tuned on them."),
    ] = None,
    item_fields: Annotated[
        str, typer.Option(help="What an item's text is made of, as title,brand,description.")
    ] = "title",
) -> None:
    """Make a data set, train, export and compare."""
    logging.getLogger("vitrine").setLevel(logging.INFO)
    with errors_as_sentences():
        options = ReproduceOptions(
            reviews,
            items,
            recipe,
            out,
            pairs,
            reranker,
            quantize,
            distill or (),
            teacher,
            judgements or (),
            fields_of(item_fields),
        )
        recalls = reproduce(options)
        judged = {name: recalls[name] for name in map(judged_report_of, options.judgements)}
        print_result(
            {
                "report": str(out / REPORT_FOLDER / "report.md"),
                "recall_at_10": recalls[REPORT_FOLDER],
                **({"judgements": judged} if judged else {}),
            }
        )


if __name__ == "__main__":
    typer.run(main)
