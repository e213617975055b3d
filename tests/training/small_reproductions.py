"""Options of `training.reproduce` for the sample catalogue, with recipes of a few steps."""

from dataclasses import replace

from training.reproduce_plan import ReproduceOptions
from training.sample_catalog import write_sample

RECIPE = """
name = "tiny"
[model]
base = "{base}"
max_tokens = 32
[data]
pairs_max = 96
[loss]
kind = "cached_mnrl"
symmetric = true
matryoshka_dims = [8, 16]
[batches]
size = 16
mini_batch = 8
product_once = true
[negatives]
per_pair = 1
from_epoch = 2
rank_last = 20
[optimizer]
learning_rate = 0.01
epochs = 2
[run]
evaluations_per_epoch = 1
dev_queries = 20
dev_items = 60
"""

OTHER_RECIPE = """
name = "{name}"
[model]
base = "{base}"
max_tokens = 32
[data]
pairs_max = 32
[batches]
size = 16
[optimizer]
learning_rate = 0.01
[run]
evaluations_per_epoch = 1
dev_queries = 10
dev_items = 60
"""


def small_options(base, folder):
    """Return the sample catalogue's own reviews, a bi-encoder's recipe and a reranker's."""
    write_sample(folder / "catalog", 150, 7)
    recipe, reranker = folder / "tiny.toml", folder / "tiny-reranker.toml"
    recipe.write_text(RECIPE.format(base=base))
    reranker.write_text(OTHER_RECIPE.format(name="tiny-reranker", base=base) + "dev_depth = 5\n")
    return ReproduceOptions(
        [folder / "catalog" / "reviews.jsonl.gz"],
        [folder / "catalog" / "items.jsonl.gz"],
        [recipe],
        folder / "out",
        reranker=reranker,
        quantization="none",
    )


def for_a_student(options, base, folder):
    """Return the options with a student of the first recipe's bundle, and no reranker."""
    student = folder / "student.toml"
    student.write_text(OTHER_RECIPE.format(name="student", base=base))
    return replace(options, distill=[student], reranker=None)


def another(options, name, *changes):
    """Return the options with a recipe more: the first one's, with these texts replaced."""
    text = options.recipes[0].read_text().replace('"tiny"', f'"{name}"', 1)
    for before, after in changes:
        assert before in text
        text = text.replace(before, after, 1)
    path = options.recipes[0].with_name(f"{name}.toml")
    path.write_text(text)
    return replace(options, recipes=[*options.recipes, path])
