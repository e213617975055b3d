"""Fine-tune a bi-encoder on pairs of a data set, by a recipe.

`python -m training.train --recipe FILE --data DIR --out DIR`; the data set is that of
`training.dataset`. DIR then holds `model/` (the best weights on dev, a sentence-transformers
folder), `run.json`, `curves.png`. The same command goes on after an interruption, to the same
numbers.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from rpc.terminal import errors_as_sentences, print_result
from training.beir import load_collection, narrow
from training.bi_encoder_task import prepare_task
from training.checkpoints import held
from training.dataset import is_of_reviews
from training.examples import read_examples, with_short_queries
from training.recipe import Recipe, read_recipe
from training.runs import DEV_SEED, MODEL_FOLDER, carry_out, describe_dev, out_of_memory_as_sentence
from training.short_queries import with_typed
from training.trainer import prepare


def train(recipe: Recipe, data: Path, out: Path) -> dict[str, Any]:
    """Train, write the model and return the run record.

    Raises:
        CommandError: the data set, the model or the folder does not fit, or memory ran out.
    """
    examples = read_examples(data, recipe.data.pairs_max, recipe.data.except_category)
    examples = with_short_queries(examples, recipe.data.short_queries)
    dev = load_collection(data, "dev")
    dev = narrow(dev, recipe.run.dev_items, recipe.run.dev_queries, DEV_SEED)
    dev = with_typed(dev) if recipe.data.short_queries else dev
    facts = {
        "pairs": len(examples.queries),
        "items": len(examples.items),
        "dev": describe_dev(dev),
    }
    out.mkdir(parents=True, exist_ok=True)
    with held(out), out_of_memory_as_sentence(remedy(recipe)):
        task = prepare_task(recipe, examples, dev, same_title=is_of_reviews(data))
        return carry_out(prepare(recipe, task, out), facts)


def remedy(recipe: Recipe) -> str:
    """Return which key to lower when memory runs out."""
    batches = recipe.batches
    if recipe.loss.kind == "cached_mnrl":
        return f"lower batches.mini_batch (now {batches.mini_batch}) or model.max_tokens"
    return (
        f'lower batches.size (now {batches.size}) or model.max_tokens, or set loss.kind = "cached_'
        'mnrl", which keeps the size and holds batches.mini_batch texts at a time'
    )


def main(
    recipe: Annotated[Path, typer.Option(help="A recipe, as training/recipes/paper.toml.")],
    data: Annotated[Path, typer.Option(help="Folder that training.dataset wrote.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; the same goes on with it.")],
) -> None:
    """Fine-tune a bi-encoder by a recipe."""
    with errors_as_sentences():
        record = train(read_recipe(recipe), data, out)
        shown = ("pairs", "steps", "seconds", "device", "dev_recall_at_10")
        print_result({name: record[name] for name in shown} | {"model": str(out / MODEL_FOLDER)})


if __name__ == "__main__":
    typer.run(main)
