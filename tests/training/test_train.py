import gzip
import json
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from rpc.terminal import CommandError
from tests.training.small_models import MPNET, make_model
from training import training_data
from training.beir import load_collection
from training.bi_encoder_task import fingerprint_of, prepare_task
from training.checkpoints import Progress, held
from training.examples import read_examples, with_short_queries
from training.memory import out_of_memory_as_sentence
from training.principal_directions import principal_directions, turned
from training.recipe import Recipe
from training.short_queries import with_typed
from training.train import remedy, train
from training.trainer import backward_precision, precision, prepare, run_id_of, take_step

TOTAL_STEPS = 8  # 2 epochs of 48 pairs: 4 steps of 2 batches of 6


def a_recipe(base, **sections):
    written = {
        "name": "tiny",
        "model": {"base": str(base), "max_tokens": 12},
        "batches": {"size": 6, "accumulation": 2, "mini_batch": 4, "product_once": True},
        "negatives": {"per_pair": 1, "from_epoch": 2, "rank_last": 5},
        "optimizer": {"learning_rate": 0.01, "epochs": 2},
        "run": {
            "evaluations_per_epoch": 2,
            "checkpoint_steps": 1,
            "dev_queries": 24,
            "dev_items": 24,
            "bf16": False,  # the same numbers on every machine
        },
    }
    for name, keys in sections.items():
        written[name] = {**written.get(name, {}), **keys}
    return Recipe.model_validate(written)


def weights_of(folder):
    return SentenceTransformer(str(folder), device="cpu").state_dict()


def test_training_finds_more_and_leaves_model_record_and_curves(tiny_model, tiny_data, tmp_path):
    record = train(a_recipe(tiny_model, optimizer={"epochs": 4}), tiny_data, tmp_path)
    assert record == json.loads((tmp_path / "run.json").read_text())
    assert record["dev_recall_at_10"]["best"] > record["dev_recall_at_10"]["before"]
    losses = [loss for _, loss in record["losses"]]
    # Both with hard negatives, which the first epoch is without: four steps an epoch.
    assert sum(losses[12:16]) < sum(losses[4:8])
    assert (record["pairs"], record["items"], record["steps"]) == (48, 24, 2 * TOTAL_STEPS)
    assert record["versions"]["torch"].startswith("2.")
    assert record["device"].startswith("CPU")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    # Texts were cut while training; the model that is left takes what its base took.
    assert SentenceTransformer(str(tmp_path / "model"), device="cpu").max_seq_length == 32


@pytest.mark.parametrize("step", [3, TOTAL_STEPS - 1])
def test_an_interrupted_run_goes_on_to_the_same_numbers(
    tiny_model, tiny_data, tmp_path, interrupted_at, monkeypatch, step
):
    recipe = a_recipe(tiny_model)
    whole = train(recipe, tiny_data, tmp_path / "whole")
    interrupted_at(step)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tiny_data, tmp_path / "cut")
    monkeypatch.undo()
    again = train(recipe, tiny_data, tmp_path / "cut")
    assert whole["steps"] == TOTAL_STEPS
    assert again["losses"] == whole["losses"]
    assert again["evaluations"] == whole["evaluations"]
    left, right = weights_of(tmp_path / "whole" / "model"), weights_of(tmp_path / "cut" / "model")
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_run_that_is_done_is_not_done_again(tiny_model, tiny_data, tmp_path, interrupted_at):
    first = train(a_recipe(tiny_model), tiny_data, tmp_path)
    interrupted_at(TOTAL_STEPS + 1)
    again = train(a_recipe(tiny_model), tiny_data, tmp_path)
    assert again["losses"] == first["losses"]


def test_a_folder_of_another_run_is_refused(tiny_model, tiny_data, tmp_path):
    train(a_recipe(tiny_model), tiny_data, tmp_path)
    other = a_recipe(tiny_model, optimizer={"learning_rate": 0.02})
    with pytest.raises(CommandError, match="holds a run of another recipe, model or data set"):
        train(other, tiny_data, tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(b"torn")
    with pytest.raises(CommandError, match=r"checkpoint\.pt cannot be read .*; remove it"):
        train(other, tiny_data, tmp_path)
    torch.save({"weights": 1}, tmp_path / "checkpoint.pt")
    with pytest.raises(CommandError, match=r"checkpoint\.pt is no checkpoint of a training run"):
        train(other, tiny_data, tmp_path)


def test_best_weights_that_cannot_be_read_are_named(tiny_model, tiny_data, tmp_path):
    train(a_recipe(tiny_model), tiny_data, tmp_path)
    (tmp_path / "best.pt").write_bytes(b"torn")
    with pytest.raises(CommandError, match=r"best\.pt cannot be read .*; remove .* to start again"):
        train(a_recipe(tiny_model), tiny_data, tmp_path)


def test_pairs_that_cannot_be_read_are_named(tmp_path):
    path = tmp_path / "pairs.jsonl.gz"
    line = b'{"query": "warm", "positive": "red boots", "group": "boots"}\n'
    path.write_bytes(gzip.compress(line.replace(b'"boots"', b"7")))
    with pytest.raises(CommandError, match=r"pairs\.jsonl\.gz:1: group is 7; a text is needed"):
        read_examples(tmp_path, None, None)
    path.write_bytes(gzip.compress(line * 9)[:-12])
    with pytest.raises(CommandError, match=r"pairs\.jsonl\.gz: is not a whole gzip file"):
        read_examples(tmp_path, None, None)


def test_two_processes_do_not_train_in_one_folder(tiny_data, tmp_path):
    with held(tmp_path), pytest.raises(CommandError, match="another process trains in"):
        train(a_recipe("any"), tiny_data, tmp_path)


def test_a_run_that_gets_no_better_stops_and_keeps_its_best(tiny_model, tiny_data, tmp_path):
    recipe = a_recipe(
        tiny_model, optimizer={"learning_rate": 1e-12, "epochs": 3}, run={"patience": 3}
    )
    record = train(recipe, tiny_data, tmp_path)
    assert record["stopped_early"]
    # One evaluation before the first step, then three without a better one, two an epoch.
    assert [step for step, _ in record["evaluations"]] == [0, 2, 4, 6]
    assert record["steps"] == 6


def test_a_run_whose_patience_ends_with_its_last_step_did_not_stop_early(
    tiny_model, tiny_data, tmp_path
):
    recipe = a_recipe(tiny_model, optimizer={"learning_rate": 1e-12}, run={"patience": 4})
    record = train(recipe, tiny_data, tmp_path)
    assert [step for step, _ in record["evaluations"]] == [0, 2, 4, 6, TOTAL_STEPS]
    assert not record["stopped_early"]


def test_the_best_weights_are_those_of_a_checkpoint(
    tiny_model, tiny_data, tmp_path, interrupted_at
):
    interrupted_at(3)  # one step after an evaluation
    with pytest.raises(KeyboardInterrupt):
        train(a_recipe(tiny_model, run={"checkpoint_steps": 100}), tiny_data, tmp_path)
    best = torch.load(tmp_path / "best.pt")
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=False)
    assert saved["progress"]["best"] == max(found for _, found in saved["progress"]["evaluations"])
    assert all(torch.equal(saved["state"]["model"][name], best[name]) for name in best)


def test_a_run_is_another_with_other_judgements_and_not_with_a_new_key(tiny_data):
    class Later(Recipe):
        key_of_a_later_version: bool = False

    def id_of(recipe, dev, *, same_title=True):
        fingerprint = fingerprint_of(examples, dev, same_title=same_title)
        model = torch.nn.Linear(1, 1, bias=False)
        model.weight.data.fill_(1.0)
        return run_id_of(recipe, SimpleNamespace(model=model, fingerprint=fingerprint))

    recipe, examples = a_recipe("any"), read_examples(tiny_data, None, None)
    later = Later.model_validate(recipe.model_dump())
    dev = load_collection(tiny_data, "dev")
    [(query_id, judged), *_] = dev.qrels.items()
    other = replace(dev, qrels={**dev.qrels, query_id: dict.fromkeys(judged, 2)})
    assert id_of(later, dev) == id_of(recipe, dev)
    assert (
        len({id_of(recipe, dev), id_of(recipe, other), id_of(recipe, dev, same_title=False)}) == 3
    )


def test_frozen_word_vectors_stay_and_other_weights_move(tiny_model, tiny_data, tmp_path):
    recipe = a_recipe(
        tiny_model, model={"freeze_token_embeddings": True}, optimizer={"weight_decay": 0.1}
    )
    train(recipe, tiny_data, tmp_path)
    before, after = weights_of(tiny_model), weights_of(tmp_path / "model")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert not any("word_embeddings" in name for name in moved)
    assert any("attention" in name for name in moved)


def test_without_freezing_word_vectors_move(tiny_model, tiny_data, tmp_path):
    train(a_recipe(tiny_model), tiny_data, tmp_path)
    before, after = weights_of(tiny_model), weights_of(tmp_path / "model")
    name = next(name for name in before if "word_embeddings" in name)
    assert not torch.equal(before[name], after[name])


def test_prompts_of_the_model_stand_before_what_it_is_trained_on(tiny_model, tiny_data, tmp_path):
    model = SentenceTransformer(str(tiny_model), device="cpu")
    model.prompts = {"query": "query: ", "document": "item: "}
    model.save(str(tmp_path / "prompted"))
    recipe = a_recipe(tmp_path / "prompted")
    examples = read_examples(tiny_data, None, None)
    dev = load_collection(tiny_data, "dev")
    prepared = prepare_task(recipe, examples, dev, same_title=True)
    queries, items = prepared.examples.columns([0], None)
    assert queries == [f"query: {examples.queries[0]}"]
    assert items == ["item: red boots"]
    assert prepared.dev.item_texts[0] == "item: red boots"


def test_running_out_of_memory_names_the_key_to_lower():
    plain = a_recipe("any", batches={"size": 128})
    with (
        pytest.raises(
            CommandError,
            match=r"out of memory: lower batches\.size \(now 128\), where dev is measured or "
            r"negatives are mined batches\.mini_batch \(now 4\)",
        ),
        out_of_memory_as_sentence(remedy(plain)),
    ):
        torch.empty(1 << 50)
    cached = a_recipe("any", loss={"kind": "cached_mnrl"})
    with (
        pytest.raises(CommandError, match=r"lower batches\.mini_batch \(now 4\)"),
        out_of_memory_as_sentence(remedy(cached)),
    ):
        np.empty(1 << 50)
    with pytest.raises(RuntimeError, match="something else"), out_of_memory_as_sentence(""):
        raise RuntimeError("something else")


def test_running_out_of_memory_while_reading_names_what_is_read(monkeypatch, tiny_data, tmp_path):
    def too_much(*arguments):
        raise MemoryError

    monkeypatch.setattr(training_data, "load_collection", too_much)
    with pytest.raises(CommandError, match=r"out of memory: lower data\.pairs_max \(now all\)"):
        train(a_recipe("any"), tiny_data, tmp_path)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("capabilities", "kind"),
    [({"amx_bf16": True}, torch.autocast), ({"amx_bf16": False}, nullcontext), ({}, nullcontext)],
)
def test_bfloat16_is_used_where_it_pays(monkeypatch, capabilities, kind):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    recipe = a_recipe("any", run={"bf16": True})
    assert isinstance(precision(recipe, torch.device("cpu")), kind)
    on_gpu = precision(recipe, torch.device("cuda"))
    assert isinstance(on_gpu, torch.autocast)
    assert on_gpu.fast_dtype == torch.bfloat16
    without = a_recipe("any", run={"bf16": False})
    assert isinstance(precision(without, torch.device("cuda")), nullcontext)


def test_a_run_in_bfloat16_learns_and_says_so(tiny_model, tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    recipe = a_recipe(tiny_model, optimizer={"epochs": 4}, run={"bf16": True})
    record = train(recipe, tiny_data, tmp_path)
    losses = [loss for _, loss in record["losses"]]
    assert record["bf16"]
    assert sum(losses[12:16]) < sum(losses[4:8])


@pytest.mark.parametrize("kind", ["mnrl", "cached_mnrl"])
def test_every_pass_that_embeds_is_in_bfloat16_and_every_weight_learns(
    tiny_model, tiny_data, tmp_path, monkeypatch, kind
):
    examples, dev = read_examples(tiny_data, None, None), load_collection(tiny_data, "dev")
    gradients = {}
    for name, capabilities in (("bf16", {"amx_bf16": True}), ("float32", {})):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found)
        recipe = a_recipe(
            tiny_model,
            loss={"kind": kind},
            batches={"accumulation": 1},
            optimizer={"gradient_norm_max": 1.0},
            run={"bf16": True},
        )
        task = prepare_task(recipe, examples, dev, same_title=True)
        for module in task.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        seen = set()
        task.model[0].model.encoder.layer[0].output.dense.register_forward_hook(
            lambda _module, _taken, given, seen=seen: seen.add(
                (torch.is_grad_enabled(), given.dtype)
            )
        )
        take_step(prepare(recipe, task, tmp_path), Progress(), task.batches(0)[:1])
        dtype = torch.bfloat16 if name == "bf16" else torch.float32
        passes = {True} if kind == "mnrl" else {False, True}
        assert seen == {(with_gradients, dtype) for with_gradients in passes}
        gradients[name] = {
            key: weight.grad
            for key, weight in task.model.named_parameters()
            if weight.grad is not None
        }
    assert gradients["bf16"].keys() == gradients["float32"].keys()
    left, right = (
        torch.cat([each.ravel() for each in gradients[name].values()])
        for name in ("bf16", "float32")
    )
    assert torch.nn.functional.cosine_similarity(left, right, dim=0) > 0.98


def test_gradients_of_what_is_computed_in_float32_are_too(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    cpu = torch.device("cpu")
    plain, cached = (
        backward_precision(a_recipe("any", loss={"kind": kind}, run={"bf16": True}), cpu)
        for kind in ("mnrl", "cached_mnrl")
    )
    assert isinstance(plain, nullcontext)
    assert isinstance(cached, torch.autocast)


def test_turned_vectors_keep_their_products_and_say_most_first(tiny_model, tiny_data, tmp_path):
    items, found = list(read_examples(tiny_data, None, None).items), {}
    for turn in (False, True):
        recipe = a_recipe(tiny_model, model={"principal_directions": turn})
        train(recipe, tiny_data, tmp_path / f"{turn}")
        model = SentenceTransformer(str(tmp_path / f"{turn}" / "model"), device="cpu")
        found[turn] = model.encode(items, normalize_embeddings=True)
    np.testing.assert_allclose(
        found[True] @ found[True].T, found[False] @ found[False].T, atol=1e-5
    )
    shares = (found[True] ** 2).sum(axis=0)
    assert (np.diff(shares) <= 1e-5).all()
    assert shares[0] > (found[False] ** 2).sum(axis=0).max()


def test_a_model_that_is_turned_again_has_one_linear_layer(tiny_model):
    turn = principal_directions(np.random.default_rng(3).normal(size=(40, 16)).astype(np.float32))
    model = SentenceTransformer(str(tiny_model), device="cpu")
    plain = model.encode(["red boots", "a lamp"], normalize_embeddings=True)
    once = turned(model, turn)
    twice = turned(once, turn.T)
    assert [type(module).__name__ for module in twice] == [
        "Transformer", "Pooling", "Dense", "Normalize",
    ]  # fmt: skip
    np.testing.assert_allclose(twice.encode(["red boots", "a lamp"]), plain, atol=1e-6)


def test_a_shorter_length_than_the_model_has_is_refused(tiny_model, tiny_data, tmp_path):
    recipe = a_recipe(tiny_model, loss={"matryoshka_dims": [8, 32]})
    with pytest.raises(CommandError, match=r"loss\.matryoshka_dims has 32; allowed 1\.\.16"):
        train(recipe, tiny_data, tmp_path)


def test_more_tokens_than_the_model_takes_are_refused(tiny_model, tiny_data, tmp_path):
    recipe = a_recipe(tiny_model, model={"max_tokens": 33})
    with pytest.raises(CommandError, match=r"model\.max_tokens is 33; allowed 8\.\.32, the most"):
        train(recipe, tiny_data, tmp_path)


def test_a_category_that_no_pair_has_is_refused_and_those_there_are_named(
    tiny_model, tiny_data, tmp_path
):
    recipe = a_recipe(tiny_model, data={"except_category": "boot"})
    with pytest.raises(CommandError, match=r"is 'boot', .* boots, kettle, lamp, scarf$"):
        train(recipe, tiny_data, tmp_path)


def test_a_loss_that_is_no_number_stops_the_run(tiny_model, tiny_data, tmp_path):
    model = SentenceTransformer(str(tiny_model), device="cpu")
    with torch.no_grad():
        model[0].model.encoder.layer[0].output.dense.weight.fill_(torch.nan)
    model.save(str(tmp_path / "broken"))
    with pytest.raises(CommandError, match=r"the loss is nan at step 1; lower optimizer\.learning"):
        train(a_recipe(tmp_path / "broken"), tiny_data, tmp_path / "out")
    assert not (tmp_path / "out" / "model").exists()


def test_batches_that_leave_no_product_for_negatives_are_refused(tiny_model, tiny_data, tmp_path):
    recipe = a_recipe(tiny_model, batches={"size": 24}, negatives={"per_pair": 1})
    with pytest.raises(CommandError, match=r"batches\.size is 24 and there are 24 products"):
        train(recipe, tiny_data, tmp_path)


def test_pairs_of_one_product_are_refused(tiny_model, tiny_data, tmp_path):
    recipe = a_recipe(tiny_model, data={"pairs_max": 2})  # two reviews of the red boots
    with pytest.raises(CommandError, match=r"all of one product, and batches\.product_once"):
        train(recipe, tiny_data, tmp_path)


def test_a_folder_without_pairs_is_refused(tmp_path):
    with pytest.raises(CommandError, match="no training pairs; make them with python -m"):
        train(a_recipe("any"), tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_category_that_is_kept_out_does_not_choose_the_weights(tiny_model, tiny_data):
    recipe = a_recipe(tiny_model, data={"except_category": "boots"}, run={"dev_queries": 500})
    _, dev = training_data.read_training_data(recipe, tiny_data)
    whole = load_collection(tiny_data, "dev")
    titles = dict(zip(whole.item_ids, whole.item_texts, strict=True))
    of_boots = [q for q in whole.query_ids if "boots" in titles[min(whole.qrels[q])]]
    assert of_boots
    assert set(dev.query_ids) == set(whole.query_ids) - set(of_boots)


def test_a_category_can_be_kept_out(tiny_data):
    examples = read_examples(tiny_data, None, "lamp")
    assert len(examples.queries) == 36
    assert not any("lamp" in item for item in examples.items)


def test_short_queries_ask_for_every_item_beside_the_reviews(tiny_data):
    plain = read_examples(tiny_data, None, None)
    asked = with_short_queries(plain, 2)
    assert asked.queries[: len(plain.queries)] == plain.queries
    added = slice(len(plain.queries), None)
    assert len(asked.queries[added]) == 2 * len(plain.items)
    for query, row, group in zip(
        asked.queries[added], asked.positives[added], asked.groups[added], strict=True
    ):
        assert set(query.split()) <= set(plain.items[row].lower().split())
        assert group == plain.item_groups[row]
    assert (
        len({plain.fingerprint, asked.fingerprint, with_short_queries(plain, 1).fingerprint}) == 3
    )
    assert with_short_queries(plain, 0) is plain


def test_with_short_queries_dev_asks_each_of_its_items_in_few_words_too(
    tiny_model, tiny_data, tmp_path
):
    found = {
        asked: train(
            a_recipe(tiny_model, data={"short_queries": asked}), tiny_data, tmp_path / f"{asked}"
        )
        for asked in (0, 1)
    }
    assert found[1]["pairs"] == found[0]["pairs"] + found[0]["items"]
    assert found[1]["dev"]["queries"] == 2 * found[0]["dev"]["queries"]
    collection = with_typed(load_collection(tiny_data, "dev"))
    texts = dict(zip(collection.query_ids, collection.query_texts, strict=True))
    for query_id in [each for each in collection.query_ids if each.endswith(" typed")]:
        assert collection.qrels[query_id] == collection.qrels[query_id.removesuffix(" typed")]
        assert 1 <= len(texts[query_id].split()) <= 4


def test_what_frozen_layers_share_is_frozen_with_them(tmp_path, minilm_model, tiny_data):
    model = make_model(tmp_path / "mpnet", minilm_model, MPNET)
    examples, dev = read_examples(tiny_data, None, None), load_collection(tiny_data, "dev")
    frozen = {"freeze_token_embeddings": True, "freeze_layers": 1}
    task = prepare_task(a_recipe(model, model=frozen), examples, dev, same_title=True)
    trained = {n for n, weight in task.model.named_parameters() if weight.requires_grad}
    assert {name.partition("encoder.")[2][:7] for name in trained if "encoder." in name} == {
        "layer.1"
    }


def test_layers_are_frozen_from_below_and_one_is_left(minilm_model, tiny_data):
    frozen = {"freeze_token_embeddings": True, "freeze_layers": 6}
    examples, dev = read_examples(tiny_data, None, None), load_collection(tiny_data, "dev")
    recipe = a_recipe(minilm_model, model=frozen)
    with pytest.raises(CommandError, match=r"model\.freeze_layers is 6; allowed 0\.\.5"):
        prepare_task(recipe, examples, dev, same_title=True)
    recipe = a_recipe(minilm_model, model=frozen | {"freeze_layers": 4})
    prepared = prepare_task(recipe, examples, dev, same_title=True)
    trained = [n for n, weight in prepared.model.named_parameters() if weight.requires_grad]
    assert {name.split("encoder.layer.")[1][0] for name in trained if "layer." in name} == {
        "4",
        "5",
    }
    assert not any("embeddings" in name for name in trained)
