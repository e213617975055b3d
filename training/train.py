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
from training.bi_encoder_task import prepare_task
from training.checkpoints import held
from training.dataset import is_of_reviews
from training.memory import out_of_memory_as_sentence
from training.recipe import Changes, Recipe, read_recipe
from training.runs import MODEL_FOLDER, carry_out, describe_dev
from training.trainer import prepare
from training.training_data import read_training_data


def train(recipe: Recipe, data: Path, out: Path) -> dict[str, Any]:
    """Train, write the model and return the run record.

    Raises:
        CommandError: the data set, the model or the folder does not fit, or memory ran out.
    """
    examples, dev = read_training_data(recipe, data)
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
        f"lower batches.size (now {batches.size}), where dev is measured or negatives are mined "
        f"batches.mini_batch (now {batches.mini_batch}), or model.max_tokens; or set loss.kind = "
        '"cached_mnrl", which keeps the size and holds batches.mini_batch texts at a time'
    )


def main(
    recipe: Annotated[Path, typer.Option(help="A recipe, as training/recipes/paper.toml.")],
    data: Annotated[Path, typer.Option(help="Folder that training.dataset wrote.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; the same goes on with it.")],
    changes: Changes = None,
) -> None:
    """Fine-tune a bi-encoder by a recipe."""
    with errors_as_sentences():
        record = train(read_recipe(recipe, changes or ()), data, out)
        shown = ("pairs", "steps", "seconds", "device", "dev_recall_at_10")
        print_result({name: record[name] for name in shown} | {"model": str(out / MODEL_FOLDER)})


if __name__ == "__main__":
    typer.run(main)
