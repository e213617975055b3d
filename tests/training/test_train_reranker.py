import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder

from rpc.terminal import CommandError
from tests.training.small_models import make_cross_encoder
from training.beir import load_collection
from training.embeddings import open_encoder
from training.evaluate import EvaluateOptions, compare
from training.examples import read_examples
from training.export import export
from training.export_options import ExportOptions
from training.losses import build_reranker_loss
from training.memory import out_of_memory_as_sentence
from training.model_source import find_model
from training.recipe import RerankerRecipe
from training.reranker_task import find_candidates, prepare_task
from training.torch_reranker import load_model
from training.train_reranker import remedy, train_reranker
from training.trainer import run_id_of

TOTAL_STEPS = 8  # 2 epochs of 48 pairs: 4 steps of 2 batches of 6


def a_recipe(base, **sections):
    written = {
        "name": "tiny-reranker",
        "model": {"base": str(base), "max_tokens": 24},
        "batches": {"size": 6, "accumulation": 2, "mini_batch": 8, "bucket": 2},
        "negatives": {"per_pair": 3, "rank_last": 20},
        "optimizer": {"learning_rate": 0.01, "epochs": 2},
        "run": {
            "evaluations_per_epoch": 1,
            "checkpoint_steps": 3,
            "dev_queries": 24,
            "dev_items": 24,
            "dev_depth": 20,
        },
    }
    for name, keys in sections.items():
        written[name] = {**written.get(name, {}), **keys}
    return RerankerRecipe.model_validate(written)


@pytest.fixture(scope="module")
def run_of(tiny_model, tiny_data, tmp_path_factory):
    """A run and its record."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    recipe = a_recipe(tiny_model)
    return out, train_reranker(recipe, tiny_data, str(tiny_model), out, out.parent / "cache")


def test_a_run_leaves_model_record_and_curves(run_of):
    out, record = run_of
    assert record == json.loads((out / "run.json").read_text())
    measured = [found for _, found in record["evaluations"]]
    assert record["dev_ndcg_at_10"]["best"] == pytest.approx(max(measured), abs=1e-4)
    assert [step for step, _ in record["evaluations"]] == [0, 4, 8]
    assert (record["pairs"], record["items"], record["steps"]) == (48, 24, TOTAL_STEPS)
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_what_was_trained_is_exported_and_reranks(run_of, tiny_model, tiny_data, tmp_path):
    out, record = run_of
    bundle = export(ExportOptions(str(out / "model"), tmp_path / "bundle", quantization="none"))
    # What it was trained on is what it is served with.
    assert (bundle["kind"], bundle["max_tokens"]) == ("cross_encoder", 24)
    systems = [f"tiny={tiny_model}", f"model=rerank:tiny+{out / 'model'}?depth=20"]
    systems.append(f"bundle=rerank:tiny+{tmp_path / 'bundle'}?depth=20")
    options = EvaluateOptions(
        tiny_data, systems, tmp_path / "report", tmp_path / "cache", split="dev"
    )
    found = {
        name: system["measures"]["ndcg@10"]["mean"]
        for name, system in compare(options)["systems"].items()
    }
    assert found["tiny"] == pytest.approx(record["dev"]["not_reranked"], abs=1e-4)
    assert found["model"] == pytest.approx(record["dev_ndcg_at_10"]["best"], abs=1e-4)
    assert found["bundle"] == pytest.approx(found["model"], abs=1e-4)


def test_an_interrupted_run_goes_on_to_the_same_numbers(
    tiny_model, tiny_data, tmp_path, interrupted_at, monkeypatch
):
    def trained(name):
        cache = tmp_path / "cache"
        return train_reranker(
            a_recipe(tiny_model), tiny_data, str(tiny_model), tmp_path / name, cache
        )

    whole = trained("whole")
    interrupted_at(TOTAL_STEPS - 1)
    with pytest.raises(KeyboardInterrupt):
        trained("cut")
    monkeypatch.undo()
    again = trained("cut")
    assert whole["steps"] == TOTAL_STEPS
    assert again["losses"] == whole["losses"]
    assert again["evaluations"] == whole["evaluations"]
    left, right = (
        CrossEncoder(str(tmp_path / name / "model"), device="cpu").state_dict()
        for name in ("whole", "cut")
    )
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_another_bi_encoder_makes_another_run(tiny_model, tiny_data, tmp_path):
    recipe = a_recipe(tiny_model)
    examples, dev = read_examples(tiny_data, None, None), load_collection(tiny_data, "dev")
    own = open_encoder(str(tiny_model))
    candidates = find_candidates(recipe, examples, dev, own, tmp_path)
    ids = {
        run_id_of(recipe, prepare_task(recipe, examples, dev, candidates, encoder, same_title=True))
        for encoder in (own, own, replace(own, fingerprint="another"))
    }
    assert len(ids) == 2


def test_right_items_rise_above_what_the_bi_encoder_found(tiny_model, tiny_data, tmp_path):
    recipe = a_recipe(tiny_model)
    examples, dev = read_examples(tiny_data, None, None), load_collection(tiny_data, "dev")
    encoder = open_encoder(str(tiny_model))
    candidates = find_candidates(recipe, examples, dev, encoder, tmp_path)
    task = prepare_task(recipe, examples, dev, candidates, encoder, same_title=True)
    batch, negatives = [0, 9, 18, 27], task.mine(1, known=False)
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = task.loss(batch, negatives)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 4


def test_running_out_of_memory_names_the_keys_to_lower():
    said = (
        r"lower batches\.size \(now 6\) or negatives\.per_pair \(now 3\).* where dev is measured .*"
        r"lower batches\.mini_batch \(now 8\)"
    )
    with (
        pytest.raises(CommandError, match=said),
        out_of_memory_as_sentence(remedy(a_recipe("any"))),
    ):
        torch.empty(1 << 50)


@pytest.mark.parametrize("kind", ["ranknet", "bce", "lambda"])
def test_a_loss_is_that_of_the_scores(kind, tmp_path, minilm_model):
    folder = make_cross_encoder(tmp_path / "model", minilm_model, num_hidden_layers=1)
    model = load_model(find_model(str(folder)))
    recipe = a_recipe(folder, loss={"kind": kind}, batches={"mini_batch": 4})
    loss = build_reranker_loss(model, recipe)
    sizes, preprocess = [], model.preprocess
    model.preprocess = lambda some, **rest: sizes.append(len(some)) or preprocess(some, **rest)
    queries, lists = ["red boots", "lamp"], [["boots", "scarf", "a kettle"], ["lamp", "b", "c"]]
    pairs = [(query, text) for query, texts in zip(queries, lists, strict=True) for text in texts]
    with torch.no_grad():
        found = float(loss(queries, lists))
    assert sizes == [4, 2]
    scores = torch.tensor(model.predict(pairs, activation_fn=torch.nn.Identity())).reshape(2, 3)
    gaps = torch.nn.functional.softplus(scores[:, 1:] - scores[:, :1]) / np.log(2)
    right = torch.tensor([[1.0, 0.0, 0.0]] * 2)
    if kind == "bce":
        expected = torch.nn.functional.binary_cross_entropy_with_logits(scores, right)
        assert found == pytest.approx(float(expected), rel=1e-4)
    elif kind == "ranknet":
        assert found == pytest.approx(float(gaps.mean()), rel=1e-4)
    else:
        # Weights are those of ranks: no pair weighs more than the first place is worth.
        assert 0 < found != pytest.approx(float(gaps.mean()), rel=1e-4)


def test_pairs_of_one_product_have_nothing_to_rank_below_it(tiny_model, tiny_data, tmp_path):
    recipe = a_recipe(tiny_model, data={"pairs_max": 2})  # two reviews of the red boots
    with pytest.raises(CommandError, match="all of one product; there is nothing to rank below"):
        train_reranker(recipe, tiny_data, str(tiny_model), tmp_path / "out", tmp_path / "cache")


def test_a_list_holds_the_pair_s_own_negatives_and_none_of_its_product(tiny_data):
    examples = read_examples(tiny_data, None, None)
    negatives = np.full((48, 2), -1)
    negatives[2] = [7, 1]  # the second is the item that pair 2 asks for
    [first, other] = examples.lists([2, 5], negatives)
    assert first[:2] == [examples.items[1], examples.items[7]]
    assert first[2] != examples.items[1]
    # None was mined for the other: two items stand there, neither is its own.
    assert len(set(other)) == 3
    assert examples.lists([2, 5], negatives) == [first, other]


def test_a_bi_encoder_gets_a_new_head_and_a_cross_encoder_keeps_its_own(
    tiny_model, tmp_path, minilm_model
):
    def heads(folder):
        torch.manual_seed(7)
        state = load_model(find_model(str(folder)), new_head=True).state_dict()
        return {name: value for name, value in state.items() if "classifier" in name}

    first, again = heads(tiny_model), heads(tiny_model)
    assert first
    assert all(torch.equal(first[name], again[name]) for name in first)
    scorer = make_cross_encoder(tmp_path / "scorer", minilm_model, num_hidden_layers=1)
    own = CrossEncoder(str(scorer), device="cpu").state_dict()
    assert all(torch.equal(value, own[name]) for name, value in heads(scorer).items())
    labels = make_cross_encoder(tmp_path / "nli", minilm_model, num_labels=3, num_hidden_layers=1)
    with pytest.raises(CommandError, match="cannot load"):
        load_model(find_model(str(labels)), new_head=True)
