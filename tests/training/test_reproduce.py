import json

import pytest

from rpc.terminal import CommandError
from training import reproduce as module
from training.reproduce import ReproduceOptions, reproduce
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
matryoshka_dims = [8]
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


RERANKER = """
name = "tiny-reranker"
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
dev_depth = 5
"""


@pytest.fixture
def options(tiny_model, tmp_path):
    """The sample catalogue's own reviews, and a recipe of a few steps."""
    write_sample(tmp_path / "catalog", 150, 7)
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE.format(base=tiny_model))
    reranker = tmp_path / "tiny-reranker.toml"
    reranker.write_text(RERANKER.format(base=tiny_model))
    return ReproduceOptions(
        [tmp_path / "catalog" / "reviews.jsonl.gz"],
        [tmp_path / "catalog" / "items.jsonl.gz"],
        [recipe],
        tmp_path / "out",
        reranker=reranker,
        quantization="none",
    )


def test_reviews_become_a_data_set_a_model_a_bundle_and_a_table(options, monkeypatch):
    recalls = reproduce(options)
    out = options.out
    report = (out / "report" / "report.md").read_text()
    for system in (
        "zero-shot-tiny", "bm25", "tiny", "tiny-8", "tiny-hnsw", "tiny-bundle", "tiny-rerank-20",
        "tiny-rerank-100",
    ):  # fmt: skip
        assert f"| {system} | " in report
    assert set(recalls["report"]) == set(recalls["report-masked"]) >= {"tiny-rrf", "tiny-weighted"}
    # One text a run in ONNX, many in torch: the same vectors, so the same table.
    assert recalls["report"]["tiny-bundle"] == pytest.approx(recalls["report"]["tiny"], abs=0.02)
    bundle = json.loads((out / "bundles" / "tiny" / "encoder.json").read_text())
    assert (bundle["dim"], bundle["matryoshka_dims"]) == (16, [8])
    assert bundle["fusion"].keys() == {"rrf", "weighted", "bm25", "tuned_on"}
    reranker = json.loads((out / "bundles" / "tiny-reranker" / "encoder.json").read_text())
    assert reranker["kind"] == "cross_encoder"
    assert (out / "runs" / "tiny" / "curves.png").is_file()

    # All is done: the same command makes the table again, and nothing else.
    for stage in ("make_dataset", "train", "train_reranker", "export"):
        monkeypatch.delattr(module, stage)
    assert reproduce(options) == recalls


def test_a_folder_of_other_files_is_refused(options):
    options.out.mkdir()
    (options.out / "inputs.json").write_text('{"reviews": [], "items": [], "pairs": 9}')
    with pytest.raises(CommandError, match="holds what was made of other files"):
        reproduce(options)


def test_a_wrong_recipe_is_refused_before_any_stage(options):
    options.recipes[0].write_text('name = "tiny"\nspeed = 2\n')
    with pytest.raises(CommandError, match="speed is no key of a recipe"):
        reproduce(options)
    assert not options.out.exists()
