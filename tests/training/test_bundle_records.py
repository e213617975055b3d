import gzip
import json
import re
import shutil

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from encoder_service.bundle import load_bundle
from rpc.terminal import CommandError
from tests.training.small_models import make_model
from training.bundle_files import write_bundle
from training.evaluate import EvaluateOptions, compare, main
from training.export import export
from training.export_options import ExportOptions


@pytest.fixture(scope="module")
def exported(tmp_path_factory, tiny_model):
    """Two bundles of the same vectors and different ids, and one of other vectors."""
    folder = tmp_path_factory.mktemp("bundles")
    own = folder / "own"
    export(ExportOptions(str(tiny_model), own, quantization="none", name="own"))
    files = {
        name: (own / name).read_bytes()
        for name in ("model.onnx", "tokenizer.json", "reference.json")
    }
    said = description(own)
    del said["encoder_id"], said["files"]  # both follow from the rest
    write_bundle(folder / "twin", files, said | {"name": "twin", "item_template": "{title}."})
    files["model.onnx"] = with_other_words(files["model.onnx"])
    write_bundle(folder / "stranger", files, said | {"name": "stranger"})
    return folder


def with_other_words(graph):
    """A graph in which every word has the vector of another."""
    model = onnx.load_from_string(graph)
    table = max(model.graph.initializer, key=lambda tensor: max(tensor.dims, default=0))
    turned = np.ascontiguousarray(onnx.numpy_helper.to_array(table)[::-1])
    table.CopyFrom(onnx.numpy_helper.from_array(turned, table.name))
    return model.SerializeToString()


@pytest.fixture
def bundles(exported, tmp_path):
    """Copies of them, to write into."""
    shutil.copytree(exported, tmp_path / "bundles")
    return tmp_path / "bundles"


def recorded(data, out, *systems, **options):
    return compare(
        EvaluateOptions(data, systems, out, out.parent / "cache", record=True, **options)
    )


def description(bundle):
    return json.loads((bundle / "encoder.json").read_text())


def test_weights_that_dev_chose_stand_in_the_bundle_and_its_id_stays(bundles, tiny_data, tmp_path):
    own, before = bundles / "own", description(bundles / "own")
    systems = ["bm25", f"own={own}", "rrf:own+bm25", "weighted:own+bm25"]
    found = recorded(tiny_data, tmp_path / "out", *systems)
    after = description(own)
    fusion = after.pop("fusion")
    assert after == before
    assert found["recorded"] == [f"{own}: fusion"]
    assert fusion["rrf"]["k"] == 60
    notes = {name: system["note"] for name, system in found["systems"].items()}
    weight, weighted = fusion["rrf"]["lexical_weight"], fusion["weighted"]
    assert notes["rrf"] == f"own and bm25, lexical_weight {weight:g}, tuned on dev"
    assert weighted["short_words_max"] == 8
    alphas = f"alpha {weighted['alpha']:g}, short_alpha {weighted['short_alpha']:g}"
    assert notes["weighted"] == f"own and bm25, {alphas}, tuned on dev"
    bm25 = fusion["bm25"]
    assert notes["bm25"] == f"k1 {bm25['k1']}, b {bm25['b']}, tuned on dev"
    assert fusion["tuned_on"] == {
        "data": tiny_data.name,
        "split": "dev",
        "queries": 24,
        "items": 24,
        "measure": "recall@10",
    }
    assert load_bundle(own).encoder_id == before["encoder_id"]


def test_an_encoder_that_asks_as_well_is_listed_once(bundles, tiny_data, tmp_path):
    own, twin = bundles / "own", bundles / "twin"
    systems = [f"own={own}", f"twin={twin}@{own}"]
    for turn in ("first", "second"):
        found = recorded(tiny_data, tmp_path / turn, *systems)
        assert found["recorded"] == [f"{own}: compatible_query_encoders"]
    assert found["systems"]["twin"]["note"] == "16 dimensions, items by own, exact"
    [entry] = load_bundle(own).compatible_query_encoders
    assert entry["encoder_id"] == description(twin)["encoder_id"] != description(own)["encoder_id"]
    assert entry["recall_at_10"] == entry["own_recall_at_10"] > 0
    assert (entry["name"], entry["recall_kept"], entry["split"]) == ("twin", 1.0, "test")
    assert entry["encode_p50_ms"] > 0
    assert load_bundle(twin).compatible_query_encoders == ()


def test_an_encoder_of_another_space_is_not_listed(bundles, tiny_data, tmp_path, capsys):
    own, before, stranger = bundles / "own", description(bundles / "own"), bundles / "stranger"
    systems = [f"own={own}", f"other={stranger}@{own}"]
    found = recorded(tiny_data, tmp_path / "out", *systems)
    assert found["recorded"] == []
    [refused] = found["refused"]
    assert re.match(r"other keeps 0\.\d+ of the recall@10 of .*; 0\.97 is", refused)
    assert description(own) == before
    # It was measured all the same, and the command says that it failed.
    assert (tmp_path / "out" / "report.md").is_file()
    with pytest.raises(SystemExit):
        main(tiny_data, systems, tmp_path / "out", cache=tmp_path / "cache", record=True)
    assert refused in capsys.readouterr().err


def test_what_cannot_be_recorded_is_refused_before_any_work(bundles, tiny_data, tmp_path):
    out = tmp_path / "out"
    for systems in (
        ["bm25"],
        ["bm25", f"own={bundles / 'own'}", "rrf:own+bm25?lexical_weight=0.5"],
        ["bm25", f"own={bundles / 'own'}?dim=8", "rrf:own+bm25"],
    ):
        with pytest.raises(CommandError, match="--record: there is nothing to record"):
            recorded(tiny_data, out, *systems)
    with pytest.raises(CommandError, match=r"twin is held against .*own's own queries; give that"):
        recorded(tiny_data, out, f"twin={bundles / 'twin'}@{bundles / 'own'}")
    assert not out.exists()


def test_weights_tuned_on_masked_queries_are_not_recorded(bundles, tiny_data, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    with gzip.open(data / "queries.jsonl.gz", "rt") as file:
        queries = [json.loads(line) | {"metadata": {"masked": "words"}} for line in file]
    with gzip.open(data / "queries.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(query) + "\n" for query in queries)
    own, before = bundles / "own", description(bundles / "own")
    with pytest.raises(CommandError, match="--record: what masked queries say is not for bundles"):
        recorded(data, tmp_path / "out", "bm25", f"own={own}", "rrf:own+bm25", masked=True)
    assert description(own) == before
    assert not (tmp_path / "out").exists()


def test_queries_and_items_of_different_lengths_are_refused(
    bundles, minilm_model, tiny_data, tmp_path
):
    wide = make_model(tmp_path / "wide", minilm_model)
    options = EvaluateOptions(
        tiny_data, [f"wide={wide}@{bundles / 'own'}"], tmp_path / "out", tmp_path / "cache"
    )
    with pytest.raises(CommandError, match=r"has 128 dimensions and .*own 16; queries and items"):
        compare(options)
