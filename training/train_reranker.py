"""Train a cross-encoder on what a bi-encoder finds for the pairs of a data set, by a recipe.

`python -m training.train_reranker --recipe FILE --data DIR --bi-encoder MODEL --out DIR`; the data
set is that of `training.dataset`, MODEL a folder, id or bundle. DIR then holds what a run of
`training.train` leaves, and goes on in the same way; `model/` is a sentence-transformers
cross-encoder, ready for `vitrine bundle export` and for `rerank:A+DIR/model` of `vitrine eval`.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from rpc.terminal import errors_as_sentences, print_result
from training.checkpoints import held
from training.dataset import is_of_reviews
from training.embeddings import open_encoder
from training.memory import out_of_memory_as_sentence
from training.recipe import Changes, RerankerRecipe, read_recipe_of
from training.reranker_task import find_candidates, prepare_task
from training.runs import MODEL_FOLDER, carry_out, describe_dev
from training.trainer import prepare
from training.training_data import read_training_data


def train_reranker(
    recipe: RerankerRecipe, data: Path, bi_encoder: str, out: Path, cache: Path
) -> dict[str, Any]:
    """Train, write the model and return the run record.

    Raises:
        CommandError: the data set, a model or the folder does not fit, or memory ran out.
    """
    examples, dev = read_training_data(recipe, data)
    out.mkdir(parents=True, exist_ok=True)
    with held(out), out_of_memory_as_sentence(remedy(recipe)):
        encoder = open_encoder(bi_encoder, recipe.batches.mini_batch)
        candidates = find_candidates(recipe, examples, dev, encoder, cache)
        task = prepare_task(
            recipe, examples, dev, candidates, encoder, same_title=is_of_reviews(data)
        )
        facts = {
            "pairs": len(examples.queries),
            "items": len(examples.items),
            "bi_encoder": encoder.name,
            "dev": describe_dev(dev)
            | {
                "depth": recipe.run.dev_depth,
                "not_reranked": round(task.worth_of(candidates.hits), 4),
            },
        }
        return carry_out(prepare(recipe, task, out), facts)


def remedy(recipe: RerankerRecipe) -> str:
    """Return which key to lower when memory runs out."""
    return (
        f"lower batches.size (now {recipe.batches.size}) or negatives.per_pair (now "
        f"{recipe.negatives.per_pair}), and raise batches.accumulation by as much; where dev is "
        f"measured or texts are embedded lower batches.mini_batch (now {recipe.batches.mini_batch})"
        "; or lower model.max_tokens"
    )


def main(
    recipe: Annotated[
        Path, typer.Option(help="A recipe, as training/recipes/reranker-minilm.toml.")
    ],
    data: Annotated[Path, typer.Option(help="Folder that training.dataset wrote.")],
    bi_encoder: Annotated[
        str, typer.Option(help="Whose hits are reranked: folder, id or bundle of a bi-encoder.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run; the same goes on with it.")],
    cache: Annotated[
        Path, typer.Option(help="Folder of embeddings, kept by encoder and text.")
    ] = Path(".vitrine/embeddings"),
    changes: Changes = None,
) -> None:
    """Train a cross-encoder by a recipe."""
    with errors_as_sentences():
        written = read_recipe_of(RerankerRecipe, recipe, changes or ())
        record = train_reranker(written, data, bi_encoder, out, cache)
        shown = ("pairs", "steps", "seconds", "device", "dev", "dev_ndcg_at_10")
        print_result({name: record[name] for name in shown} | {"model": str(out / MODEL_FOLDER)})


if __name__ == "__main__":
    typer.run(main)
