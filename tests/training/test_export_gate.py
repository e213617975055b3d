"""What is measured of a bundle when it is exported, and what is refused for it."""

import json

import numpy as np
import pytest

from encoder_service.bundle import load_bundle
from rpc.terminal import CommandError
from tests.training.small_models import make_model
from training import agreement, bi_encoder
from training.bundle_files import Content
from training.export import export
from training.export_options import ExportOptions, calibration_texts
from training.item_bundle import query_encoder_entry

TITLES = [f"{word} lamp {number}" for number in range(10) for word in ("red", "blue")]


@pytest.fixture(scope="module")
def small_model(tmp_path_factory, minilm_model):
    return make_model(tmp_path_factory.mktemp("models") / "small", minilm_model)


@pytest.fixture(scope="module")
def traces():
    return []


@pytest.fixture(autouse=True)
def traced_once(monkeypatch, traces):
    """Trace the one model of these tests once: that is most of an export's time."""
    trace = bi_encoder._trace

    def traced(*arguments):
        if not traces:
            traces.append(trace(*arguments))
        return traces[0]

    monkeypatch.setattr(bi_encoder, "_trace", traced)


@pytest.fixture
def judgements(tmp_path):
    """A BEIR folder with one query, which is the title of one of 20 items."""
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    lines = [json.dumps({"_id": f"i{n}", "title": title}) for n, title in enumerate(TITLES)]
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": TITLES[4]}))
    (folder / "qrels" / "test.tsv").write_text("q\ti4\t1\n")
    return folder


@pytest.fixture
def loses_two_percent(monkeypatch):
    """As if INT8 items lost 2 % of recall@10, and INT8 queries alone half a percent of ndcg@10."""
    found = {
        "queries": 200,
        "items": 500,
        "recall_at_10_fp32": 0.5,
        "ndcg_at_10_fp32": 0.4,
        "recall_at_10_int8_over_fp32_items": 0.51,
        "ndcg_at_10_int8_over_fp32_items": 0.398,
        "recall_at_10_int8_over_int8_items": 0.49,
        "ndcg_at_10_int8_over_int8_items": 0.4,
    }
    monkeypatch.setattr(bi_encoder, "measure_retrieval", lambda *_: dict(found))


def test_retrieval_on_given_judgements_is_recorded_for_both_pairings(
    tmp_path, small_model, judgements
):
    options = ExportOptions(str(small_model), tmp_path / "bundle", judgements=judgements)
    found = export(options)["gate"]["retrieval"]
    assert (found["queries"], found["items"], found["judgements"]) == (1, 20, "given")
    for pairing in ("fp32", "int8_over_fp32_items", "int8_over_int8_items"):
        assert found[f"recall_at_10_{pairing}"] == 1.0
    assert found["pairing"] == "int8_over_int8_items"
    assert found["lost"] == {"recall@10": 0.0, "ndcg@10": 0.0}
    assert found["loss_max"] == 0.01


@pytest.mark.usefixtures("loses_two_percent")
def test_a_bundle_that_finds_less_than_full_precision_is_refused(tmp_path, small_model, judgements):
    options = ExportOptions(str(small_model), tmp_path / "bundle", judgements=judgements)
    refused = r"loses 2\.00% of full precision's recall@10 .* at most 1\.00% .*--item-bundle DIR"
    with pytest.raises(CommandError, match=refused):
        export(options)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.usefixtures("loses_two_percent")
@pytest.mark.parametrize(
    "allowed", [{"loss_max": 0.03}, {"force_reason": "a trial"}], ids=["limit", "force"]
)
def test_a_loss_that_is_allowed_stands_in_the_gate(tmp_path, small_model, judgements, allowed):
    options = ExportOptions(str(small_model), tmp_path / "bundle", judgements=judgements, **allowed)
    gate = export(options)["gate"]
    assert gate["retrieval"]["lost"] == {"recall@10": 0.02, "ndcg@10": 0.0}
    assert gate["retrieval"]["loss_max"] == options.loss_max
    assert gate.get("forced") == options.force_reason


@pytest.mark.usefixtures("loses_two_percent")
def test_generated_judgements_refuse_nothing(tmp_path, small_model):
    found = export(ExportOptions(str(small_model), tmp_path / "bundle"))["gate"]["retrieval"]
    assert found["lost"] == {"recall@10": 0.02, "ndcg@10": 0.0}
    assert "loss_max" not in found


@pytest.mark.usefixtures("loses_two_percent")
def test_items_get_a_bundle_in_full_precision_that_lists_the_one_for_queries(
    tmp_path, small_model, judgements
):
    options = ExportOptions(
        str(small_model),
        tmp_path / "queries",
        item_bundle=tmp_path / "items",
        judgements=judgements,  # those that refuse items in INT8
    )
    gate = export(options)["gate"]
    queries, items = load_bundle(tmp_path / "queries"), load_bundle(tmp_path / "items")
    assert (queries.quantization, items.quantization) == ("int8", "none")
    assert queries.compatible_query_encoders == ()
    assert gate["retrieval"]["pairing"] == "int8_over_fp32_items"
    assert gate["retrieval"]["lost"] == {"recall@10": -0.02, "ndcg@10": 0.005}
    [entry] = items.compatible_query_encoders
    assert entry["encode_p50_ms"] == round(gate["short_query_p50_us"] / 1e3, 3)
    for key in ("encode_p50_ms", "own_encode_p50_ms"):
        assert entry.pop(key) > 0
    assert entry == {
        "encoder_id": queries.encoder_id,
        "name": queries.name,
        "recall_at_10": 0.51,
        "own_recall_at_10": 0.5,
        "recall_kept": 1.02,
        "ndcg_at_10": 0.398,
        "own_ndcg_at_10": 0.4,
        "data": "beir",
        "split": "test",
        "queries": 200,
        "items": 500,
    }


@pytest.mark.usefixtures("loses_two_percent")
def test_the_bundle_for_items_is_the_one_that_is_exported_without_quantization(
    tmp_path, small_model
):
    export(ExportOptions(str(small_model), tmp_path / "q", item_bundle=tmp_path / "items"))
    plain = export(ExportOptions(str(small_model), tmp_path / "plain", quantization="none"))
    assert load_bundle(tmp_path / "items").encoder_id == plain["encoder_id"]


def test_queries_that_keep_too_little_are_not_listed():
    gate = {
        "short_query_p50_us": 1.0,
        "short_query_p50_us_fp32": 2.0,
        "retrieval": {
            "queries": 200,
            "items": 500,
            "recall_at_10_fp32": 0.5,
            "ndcg_at_10_fp32": 0.4,
            "recall_at_10_int8_over_fp32_items": 0.48,
            "ndcg_at_10_int8_over_fp32_items": 0.4,
        },
    }
    description = {
        "dim": 4,
        "item_template": "{title}",
        "max_tokens": 16,
        "normalize": True,
        "name": "q",
        "pooling": "mean",
        "prompts": {},
        "quantization": "int8",
        "gate": gate,
    }
    content = Content({"model.onnx": b"graph", "tokenizer.json": b"{}"}, description)
    with pytest.raises(CommandError, match=r"keep 0\.9600 of .* recall@10 .* 0\.97 is needed"):
        query_encoder_entry(content, "generated", forced=False)
    assert query_encoder_entry(content, "generated", forced=True)["recall_kept"] == 0.96


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"quantization": "none"}, "with --quantize none the one bundle does both"),
        ({"item_bundle": "bundle"}, "--item-bundle and --out are both"),
        ({"item_bundle": "beir"}, "holds other files"),
    ],
)
def test_a_bundle_for_items_that_cannot_be_is_refused(
    tmp_path, small_model, judgements, changes, sentence
):
    assert judgements == tmp_path / "beir"
    item_bundle = tmp_path / changes.pop("item_bundle", "items")
    options = ExportOptions(
        str(small_model), tmp_path / "bundle", item_bundle=item_bundle, **changes
    )
    with pytest.raises(CommandError, match=sentence):
        export(options)
    assert not (tmp_path / "bundle").exists()


def test_a_text_that_lost_its_meaning_is_refused_however_well_the_others_fare(
    tmp_path, monkeypatch, small_model
):
    monkeypatch.setattr(agreement, "cosines", lambda *_: np.array([1.0] * 99 + [0.79]))
    with pytest.raises(CommandError, match=r"least cosine of only 0\.7900 .* at least 0\.8 is"):
        export(ExportOptions(str(small_model), tmp_path / "bundle", target=0.0))


def test_what_is_calibrated_with_is_the_texts_of_the_file(tmp_path, small_model):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n\n".join(TITLES))
    own = export(ExportOptions(str(small_model), tmp_path / "own", calibration=texts))["gate"]
    generated = export(ExportOptions(str(small_model), tmp_path / "generated"))["gate"]
    assert own["sensitivity"].keys() == generated["sensitivity"].keys()
    assert own["sensitivity"] != generated["sensitivity"]
    # Whatever the texts, those it is judged by are the same.
    assert own["texts"] == generated["texts"]


def test_lines_are_trimmed_and_drawn_from_the_whole_file(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join([" red lamp ", "", *(f"lamp {number}" for number in range(599))]))
    found = calibration_texts(path)
    assert found[:2] == ["red lamp", "lamp 1"]
    assert len(found) == 256
    assert found[-1] == "lamp 509"
