"""What a run of any kind reads: the pairs to train on, and what dev is measured on."""

from pathlib import Path

from training.beir import Collection, load_collection, narrow
from training.examples import Examples, read_examples, with_short_queries
from training.memory import out_of_memory_as_sentence
from training.recipe import AnyRecipe, QueriesSection
from training.runs import DEV_SEED
from training.short_queries import with_typed
from training.topics import read_topics, without_category


def read_training_data(recipe: AnyRecipe, data: Path) -> tuple[Examples, Collection]:
    """Return the pairs of a data set and its dev, as a recipe asks for them.

    Raises:
        CommandError: the data set does not fit, or memory ran out.
    """
    wanted = recipe.data
    asked = wanted.short_queries if isinstance(wanted, QueriesSection) else 0
    now = "all" if wanted.pairs_max is None else wanted.pairs_max
    with out_of_memory_as_sentence(
        f"lower data.pairs_max (now {now}), or give a data set of fewer items"
    ):
        examples = read_examples(data, wanted.pairs_max, wanted.except_category)
        dev = load_collection(data, "dev")
        if wanted.except_category is not None:
            dev = without_category(dev, read_topics(data), wanted.except_category)
        dev = narrow(dev, recipe.run.dev_items, recipe.run.dev_queries, DEV_SEED)
        return with_short_queries(examples, asked), with_typed(dev) if asked else dev
