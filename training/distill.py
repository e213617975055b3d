"""Train a small query encoder in the space of a large encoder, so that items stay as they are.

`python -m training.distill --recipe FILE --data DIR --teacher MODEL --out DIR`; the data set is
that of `training.dataset`, MODEL a folder, id or bundle. DIR then holds what a run of
`training.train` leaves, and goes on in the same way. `vitrine bundle export` makes a bundle of
`model/`; `vitrine eval --system teacher=T student=S@T --record` measures it and lists it in the
teacher's bundle among `compatible_query_encoders`, which the generations built with it take over.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from rpc.terminal import errors_as_sentences, print_result
from training.beir import Collection
from training.checkpoints import held
from training.dataset import is_of_reviews
from training.distill_task import Lesson, Texts, prepare_task, recall_of, texts_of
from training.embeddings import TextEncoder, embed_as, open_encoder
from training.examples import Examples
from training.memory import out_of_memory_as_sentence
from training.recipe import Changes, DistillRecipe, read_recipe_of
from training.runs import MODEL_FOLDER, carry_out, describe_dev
from training.trainer import prepare
from training.training_data import read_training_data


def distill(
    recipe: DistillRecipe, data: Path, teacher: str, out: Path, cache: Path
) -> dict[str, Any]:
    """Train, write the student and return the run record.

    Raises:
        CommandError: the data set, a model or the folder does not fit, or memory ran out.
    """
    examples, dev = read_training_data(recipe, data)
    out.mkdir(parents=True, exist_ok=True)
    with held(out), out_of_memory_as_sentence(remedy(recipe)):
        encoder = open_encoder(teacher, recipe.batches.mini_batch)
        lesson = ask_teacher(encoder, texts_of(recipe, examples), examples, dev, cache)
        queries = embed_as(encoder, "query", dev.query_texts, cache)
        task = prepare_task(recipe, examples, lesson, dev, same_title=is_of_reviews(data))
        facts = {
            "texts": len(lesson.learned.texts),
            "teacher": encoder.name,
            "dev": describe_dev(dev) | {"teacher_recall_at_10": round(recall_of(task, queries), 4)},
        }
        return carry_out(prepare(recipe, task, out), facts)


def ask_teacher(
    encoder: TextEncoder, learned: Texts, examples: Examples, dev: Collection, cache: Path
) -> Lesson:
    """Return the teacher's vectors of what is learned on, and of the items of training and dev."""
    vectors = embed_as(encoder, "query", learned.texts, cache)
    items = embed_as(encoder, "item", examples.items, cache)
    dev_items = embed_as(encoder, "item", dev.item_texts, cache)
    return Lesson(encoder.name, encoder.fingerprint, learned, vectors, items, dev_items)


def remedy(recipe: DistillRecipe) -> str:
    """Return which key to lower when memory runs out."""
    return (
        f"lower batches.size (now {recipe.batches.size}) and raise batches.accumulation by as "
        "much; where dev is measured or the teacher is asked lower batches.mini_batch (now "
        f"{recipe.batches.mini_batch}); or lower model.max_tokens"
    )


def main(
    recipe: Annotated[
        Path, typer.Option(help="A recipe, as training/recipes/distill-minilm.toml.")
    ],
    data: Annotated[Path, typer.Option(help="Folder that training.dataset wrote.")],
    teacher: Annotated[
        str, typer.Option(help="In whose space to be: folder, id or bundle of a bi-encoder.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run; the same goes on with it.")],
    cache: Annotated[
        Path, typer.Option(help="Folder of embeddings, kept by encoder and text.")
    ] = Path(".vitrine/embeddings"),
    changes: Changes = None,
) -> None:
    """Train a query encoder in the space of another by a recipe."""
    with errors_as_sentences():
        record = distill(
            read_recipe_of(DistillRecipe, recipe, changes or ()), data, teacher, out, cache
        )
        shown = ("texts", "steps", "seconds", "device", "dev", "dev_recall_at_10")
        print_result({name: record[name] for name in shown} | {"model": str(out / MODEL_FOLDER)})


if __name__ == "__main__":
    typer.run(main)
