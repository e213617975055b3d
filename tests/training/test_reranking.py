import gzip
import json

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder

from rpc.terminal import CommandError
from tests.training.small_models import make_cross_encoder
from training.evaluate import EvaluateOptions, compare
from training.export import export
from training.export_options import ExportOptions
from training.fusion import Hits
from training.reranking import PairScorer, open_scorer, rerank, score_once

HITS = Hits(
    np.array([[5, 3, 8, 1], [2, 4, -1, -1]]),
    np.array([[0.9, 0.8, 0.7, 0.6], [0.5, 0.4, -3.0, -3.0]], dtype=np.float32),
)


@pytest.fixture(scope="module")
def scorer_model(tmp_path_factory, minilm_model):
    return make_cross_encoder(
        tmp_path_factory.mktemp("models") / "scorer", minilm_model, num_hidden_layers=1
    )


def points(*values):
    return np.array(values, dtype=np.float32)


def test_first_hits_are_ordered_by_score_and_the_others_stay_behind_them():
    found = rerank(HITS, [points(-2.0, 4.0, 1.0), points(0.1, 0.2)])
    assert found.rows.tolist() == [[3, 8, 5, 1], [4, 2, -1, -1]]
    assert found.scores[0].tolist() == [4.0, 1.0, -2.0, -2.0]


def test_equal_scores_leave_hits_as_they_stood():
    found = rerank(HITS, [points(1.0, 1.0, 1.0), points()])
    assert found.rows.tolist() == HITS.rows.tolist()


def test_only_new_pairs_are_scored(tmp_path):
    asked = []

    def score(pairs):
        asked.extend(pairs)
        return np.array([len(query) - len(text) for query, text in pairs], dtype=np.float32)

    scorer = PairScorer("lengths", "f1", score)
    first = score_once(scorer, [("aaa", "b"), ("aaa", "b"), ("a", "ab")], tmp_path, "pairs")
    assert first.tolist() == [2, 2, -1]
    # The same words cut otherwise are another pair.
    assert score_once(scorer, [("aa", "ab"), ("aaa", "b")], tmp_path, "pairs").tolist() == [0, 2]
    assert sorted(asked) == [("a", "ab"), ("aa", "ab"), ("aaa", "b")]


@pytest.mark.parametrize("as_bundle", [False, True], ids=["folder", "bundle"])
def test_a_system_is_reranked_by_a_cross_encoder(scorer_model, tiny_data, tmp_path, as_bundle):
    scorer = scorer_model
    if as_bundle:
        scorer = tmp_path / "bundle"
        export(ExportOptions(str(scorer_model), scorer, quantization="none"))
    systems = ["bm25?k1=1.2", f"rerank:bm25+{scorer}?depth=3", "rrf:rerank+bm25?lexical_weight=1"]
    compare(EvaluateOptions(tiny_data, systems, tmp_path / "out", tmp_path / "cache"))
    first, then = (
        ranked(tmp_path / "out" / "runs" / f"{name}.trec") for name in ("bm25", "rerank")
    )
    model = CrossEncoder(str(scorer_model), device="cpu")
    for query_id, item_ids in list(first.items())[:6]:
        pairs = [(text_of(tiny_data, "queries", query_id), text_of(tiny_data, "corpus", item_id))
                 for item_id in item_ids[:3]]  # fmt: skip
        scores = model.predict(pairs, activation_fn=torch.nn.Identity())
        expected = [item_ids[place] for place in np.argsort(-scores)]
        assert then[query_id] == expected + item_ids[3:]
    found = json.loads((tmp_path / "out" / "results.json").read_text())["systems"]
    assert found["rerank"]["p50_ms"]["rerank"] > 0
    report = (tmp_path / "out" / "report.md").read_text()
    assert " ms | bm25, first 3 by scorer |" in report


def ranked(path):
    """Item ids of each query of a TREC run, best first."""
    found = {}
    for line in path.read_text().splitlines():
        query_id, _, item_id, *_ = line.split()
        found.setdefault(query_id, []).append(item_id)
    return found


def text_of(folder, stem, key):
    with gzip.open(folder / f"{stem}.jsonl.gz") as file:
        entries = {entry["_id"]: entry for entry in map(json.loads, file)}
    return entries[key].get("title") or entries[key]["text"]


def test_a_bi_encoder_does_not_rerank(tiny_model, tmp_path):
    with pytest.raises(CommandError, match="is a bi_encoder; a cross_encoder is needed"):
        open_scorer(str(tiny_model))
    with pytest.raises(CommandError, match="there is no model folder"):
        open_scorer(str(tmp_path / "absent"))
    (tmp_path / "encoder.json").write_text('{"kind": "bi_encoder"}')
    with pytest.raises(CommandError, match="is a bi_encoder; a cross_encoder is needed"):
        open_scorer(str(tmp_path))
