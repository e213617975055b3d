import json
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpc.terminal import CommandError
from training.beir import Collection, load_collection
from training.evaluate import EvaluateOptions, compare, recalls_of
from training.fusion import NO_ROW, Hits, ranked, reciprocal_ranks, weighted_scores
from training.hnsw import ann_recall, hnsw_graph, hnsw_search
from training.ranking import exact_top_k
from training.reranking import PairScorer
from training.system_notation import parse_systems
from training.systems import Ground, first_dims, open_system, typed_for


def hits(*queries):
    """Hits of queries written as {row: score}."""
    return Hits(
        np.array([list(each) for each in queries], dtype=np.int64),
        np.array([list(each.values()) for each in queries], dtype=np.float32),
    )


def unit(rows, dim, seed):
    drawn = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def test_rrf_adds_reciprocal_ranks():
    dense, lexical = hits({7: 0.9, 3: 0.8}), hits({3: 12.0, 5: 4.0})
    [found] = reciprocal_ranks(dense, lexical, lexical_weight=0.5)
    assert found == pytest.approx({7: 1 / 61, 3: 1 / 62 + 0.5 / 61, 5: 0.5 / 62})
    assert ranked([found], 3).rows.tolist() == [[3, 7, 5]]


def test_weighted_scores_are_scaled_over_the_candidates_of_each_side():
    dense, lexical = hits({7: 0.9, 3: 0.8, 4: 0.5}), hits({3: 12.0, 5: 4.0, 6: 2.0})
    [found] = weighted_scores(dense, lexical, alpha=0.75)
    expected = {7: 0.75, 3: 0.75 * 0.75 + 0.25, 4: 0.0, 5: 0.25 * 0.2, 6: 0.0}
    assert found == pytest.approx(expected)


def test_each_query_may_have_an_alpha_of_its_own():
    dense, lexical = (
        hits({7: 0.9, 3: 0.8}, {7: 0.9, 3: 0.8}),
        hits({3: 2.0, 7: 1.0}, {3: 2.0, 7: 1.0}),
    )
    fused = ranked(weighted_scores(dense, lexical, [0.9, 0.1]), 2)
    assert fused.rows.tolist() == [[7, 3], [3, 7]]


def test_short_queries_weigh_words_as_they_are_told_to(tiny_model, tiny_data, tmp_path):
    collection = load_collection(tiny_data, "test")
    ground = Ground(collection, dev=None, same_title=True, cache=tmp_path)
    opened = {}
    written = ["bm25", f"tiny={tiny_model}", "mixed=weighted:tiny+bm25?alpha=1&short_alpha=0"]
    for system in parse_systems(written):
        opened[system.name] = open_system(system, ground, opened)

    def firsts(name, more_words):
        texts = [text + more_words for text in collection.query_texts]
        return opened[name].search(texts).rows[:, 0].tolist()

    assert firsts("mixed", "") == firsts("bm25", "") != firsts("tiny", "")
    assert (
        firsts("mixed", " very" * 8) == firsts("tiny", " very" * 8) != firsts("bm25", " very" * 8)
    )


def test_what_one_might_type_for_an_answer_is_words_of_its_title():
    collection = Collection(
        name="c",
        item_ids=("a", "b"),
        item_texts=("Acme Waterproof Rain Boots for Women", "Brass Lamp"),
        query_ids=("q", "r"),
        query_texts=("kept me dry", "lights the desk"),
        qrels={"q": {"a": 1}, "r": {"b": 1}},
    )
    typed = typed_for(collection)
    for words, title in zip(typed, collection.item_texts, strict=True):
        assert set(words.split()) <= set(title.lower().split())
        assert len(words.split()) >= 2


def test_what_was_not_found_adds_nothing_on_either_side():
    found, nothing = hits({7: 0.9, 3: 0.8}), hits({NO_ROW: 0.0})
    for left, right in ((found, nothing), (nothing, found)):
        assert ranked(reciprocal_ranks(left, right, 1.0), 3).rows.tolist() == [[7, 3, NO_ROW]]
        assert ranked(weighted_scores(left, right, 0.5), 3).rows.tolist() == [[7, 3, NO_ROW]]


def test_bm25_finds_nothing_for_a_query_that_shares_no_word(tiny_data, tmp_path):
    collection = load_collection(tiny_data, "test")
    ground = Ground(collection, dev=None, same_title=True, cache=tmp_path)
    [written] = parse_systems(["bm25"])
    bm25 = open_system(written, ground, {})
    assert (bm25.search(["qqqq"]).rows == NO_ROW).all()
    rows = bm25.search(["boots"]).rows[0]
    assert all("boots" in collection.item_texts[row].lower() for row in rows if row != NO_ROW)
    assert set(rows.tolist()) > {NO_ROW}


@pytest.mark.parametrize("fusion", ["rrf", "weighted"])
def test_a_fusion_over_a_graph_that_finds_few_is_tuned(tiny_model, tiny_data, tmp_path, fusion):
    collection, dev = (load_collection(tiny_data, split) for split in ("test", "dev"))
    ground = Ground(collection, dev=dev, same_title=True, cache=tmp_path)
    opened = {}
    for system in parse_systems([f"h={tiny_model}?ef_search=4", "bm25", f"both={fusion}:h+bm25"]):
        opened[system.name] = open_system(system, ground, opened)
    assert opened["both"].tuned
    found = opened["both"].search(collection.query_texts).rows
    assert (found != NO_ROW).any(axis=1).all()


def test_a_fusion_with_a_reranking_is_tuned_on_some_of_dev(tiny_data, tmp_path, monkeypatch):
    asked = set()

    def score(pairs):
        asked.update(query for query, _ in pairs)
        return np.float32([crc32(text.encode()) % 997 for _, text in pairs])

    scorer = PairScorer("sums", "f1", score)
    monkeypatch.setattr("training.systems.open_scorer", lambda source: scorer)
    systems = [
        "bm25", "rerank:bm25+sums?depth=2", "both=weighted:rerank+bm25", "again=rrf:both+bm25",
        "weighted:bm25+bm25",
    ]  # fmt: skip
    options = EvaluateOptions(
        tiny_data, systems, tmp_path, tmp_path / "cache", masked=False, reranked_dev_queries=3
    )
    found = compare(options)
    notes = {name: each["note"] for name, each in found["systems"].items()}
    assert notes["both"].endswith("tuned on 3 queries of dev")
    assert notes["again"].endswith("tuned on 3 queries of dev")
    assert notes["weighted"].endswith(", tuned on dev")
    assert found["dev"]["queries"] == 24
    # Three of dev's reviews, which are test's as well, and a few words for each of the three.
    test = set(load_collection(tiny_data, "test").query_texts)
    assert len(asked - test) == 3


def test_a_reranked_side_keeps_scores_below_zero():
    dense, reranked = hits({7: 0.9, 3: 0.8}), hits({3: -1.0, 5: -4.0})
    [by_rank] = reciprocal_ranks(dense, reranked, 1.0)
    assert by_rank == pytest.approx({7: 1 / 61, 3: 1 / 62 + 1 / 61, 5: 1 / 62})
    [by_score] = weighted_scores(dense, reranked, 0.5)
    assert by_score == pytest.approx({7: 0.5, 3: 0.5, 5: 0.0})


@pytest.mark.parametrize("fusion", ["rrf?lexical_weight=100", "weighted?alpha=0&short_alpha=0"])
def test_scores_of_a_cross_encoder_count_below_zero_too(tiny_data, tmp_path, fusion):
    collection = load_collection(tiny_data, "test")
    ground = Ground(collection, dev=None, same_title=True, cache=tmp_path)
    ground.scorers["sums"] = PairScorer(  # logits of a cross-encoder, all below 0
        "sums", "f1", lambda pairs: -np.float32([crc32(text.encode()) % 997 for _, text in pairs])
    )
    kind, all_weight = fusion.split("?")
    written = ["bm25", "rerank:bm25+sums?depth=24", f"both={kind}:bm25+rerank?{all_weight}"]
    opened = {}
    for system in parse_systems(written):
        opened[system.name] = open_system(system, ground, opened)
    alone, found = (opened[name].search(["boots scarf"]).rows for name in ("rerank", "both"))
    assert (alone != opened["bm25"].search(["boots scarf"]).rows).any()
    assert found.tolist() == alone.tolist()


@given(
    left=st.dictionaries(st.integers(0, 30), st.floats(0.125, 1, width=32), min_size=5),
    right=st.dictionaries(st.integers(0, 30), st.floats(0.125, 9, width=32), min_size=5),
)
def test_a_side_that_weighs_nothing_changes_no_order(left, right):
    best_first = dict(sorted(left.items(), key=lambda entry: (-entry[1], entry[0])))
    dense = hits(best_first)
    lexical = hits(dict(sorted(right.items(), key=lambda entry: -entry[1])))
    fused = ranked(reciprocal_ranks(dense, lexical, lexical_weight=0.0), len(left))
    assert fused.rows.tolist() == [list(best_first)]


def test_a_hnsw_search_as_wide_as_its_items_is_exact():
    items, queries = unit(120, 8, 1), unit(20, 8, 2)
    exact = exact_top_k(queries, items, 10)[0]
    graph = hnsw_graph(items)
    assert ann_recall(hnsw_search(graph, 120)(queries).rows, exact) == 1.0
    narrow = hnsw_search(graph, 16)(queries)
    assert narrow.rows.shape == (20, 16)
    assert ann_recall(narrow.rows, exact) > 0.9
    assert (np.diff(narrow.scores, axis=1) <= 0).all()


def test_a_graph_is_built_once_for_every_ef_search(tiny_model, tiny_data, tmp_path):
    ground = Ground(load_collection(tiny_data, "test"), None, same_title=True, cache=tmp_path)
    options = {"a": "ef_search=8", "b": "ef_search=64", "c": "ef_search=8&dim=8"}
    written = [f"{name}={tiny_model}?{each}" for name, each in options.items()]
    opened = {each.name: open_system(each, ground, {}) for each in parse_systems(written)}
    assert len(ground.graphs) == 2
    shapes = {name: system.search(["rain boots"]).rows.shape for name, system in opened.items()}
    assert shapes == {"a": (1, 8), "b": (1, 24), "c": (1, 8)}


def test_a_measure_deeper_than_what_a_system_finds_is_none(tiny_model, tiny_data, tmp_path):
    systems = [
        f"tiny={tiny_model}",
        f"eight={tiny_model}?ef_search=8",
        f"sixteen={tiny_model}?ef_search=16",
        "bm25?b=0.5",
        "rrf:sixteen+bm25?lexical_weight=1",
    ]
    compare(EvaluateOptions(tiny_data, systems, tmp_path, tmp_path / "cache"))
    found = json.loads((tmp_path / "results.json").read_text())["systems"]
    all_of_them = ["recall@1", "recall@10", "recall@50", "recall@100", "mrr@10", "ndcg@10"]
    without_deep = ["recall@1", "recall@10", "mrr@10", "ndcg@10"]
    measured = {name: list(each["measures"]) for name, each in found.items()}
    assert measured == {
        "tiny": all_of_them,  # 24 items are all there are
        "eight": ["recall@1"],
        "sixteen": without_deep,
        "bm25": all_of_them,
        "rrf": without_deep,
    }
    for name in ("eight", "sixteen", "rrf"):
        assert list(found[name]["p_values"]) == measured[name]
    assert "ann_recall" not in found["eight"]["note"]
    rows = (tmp_path / "report.md").read_text().splitlines()
    [eight] = [row for row in rows if row.startswith("| eight |")]
    [sixteen] = [row for row in rows if row.startswith("| sixteen |")]
    assert [bool(cell.strip()) for cell in eight.split("|")[2:8]] == [True, *5 * [False]]
    assert [bool(cell.strip()) for cell in sixteen.split("|")[2:8]] == [
        True, True, False, False, True, True,
    ]  # fmt: skip


def test_a_baseline_without_recall_at_10_leaves_the_others_without_a_difference(
    tiny_model, tiny_data, tmp_path
):
    systems = [f"eight={tiny_model}?ef_search=8", "bm25?b=0.5"]
    found = compare(EvaluateOptions(tiny_data, systems, tmp_path, tmp_path / "cache"))
    assert list(found["systems"]["bm25"]["p_values"]) == ["recall@1"]
    assert recalls_of(found) == {"eight": None, "bm25": 1.0}
    assert "recall@10 against" not in (tmp_path / "report.md").read_text()


def test_first_dimensions_are_made_unit_again():
    vectors = unit(5, 8, 3)
    assert first_dims(vectors, 8) is vectors
    cut = first_dims(vectors, 4)
    np.testing.assert_allclose(np.linalg.norm(cut, axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(cut / cut[:, :1], vectors[:, :4] / vectors[:, :1], rtol=1e-4)


@pytest.mark.parametrize(
    ("systems", "said"),
    [
        (["bm25?k2=1"], "'k2' is no option of it; allowed k1, b"),
        (["bm25?b=1.5"], r"b is '1.5'; allowed 0.0\.\.1.0"),
        (["model?dim=many"], "dim is 'many'; allowed whole numbers 1"),
        (["model?dim=7.9"], r"dim is '7\.9'; allowed whole numbers 1\.\.65536"),
        (["a=x", "a=y"], "two systems are called a; write NAME=a=y"),
        (["rrf:ours+bm25"], "'ours' is no system named before it; there are none"),
        (["a b=bm25"], "system name is 'a b'"),
        (["rerank:ours+scorer"], "'ours' is no system named before it; there are none"),
        (
            ["bm25", "rerank:bm25+scorer?depth=101"],
            r"depth is '101'; allowed whole numbers 1\.\.100",
        ),
    ],
)
def test_a_system_that_cannot_be_understood_is_refused(systems, said):
    with pytest.raises(CommandError, match=said):
        parse_systems(systems)


def test_a_model_its_first_dimensions_and_fusions_stand_in_one_table(
    tiny_model, tiny_data, tmp_path
):
    systems = [
        "bm25",
        f"tiny={tiny_model}",
        f"tiny-8={tiny_model}?dim=8",
        f"tiny-hnsw={tiny_model}?ef_search=24&dim=16",
        "rrf:tiny+bm25",
        "mixed=weighted:tiny+bm25?alpha=0.0",
    ]
    options = EvaluateOptions(tiny_data, systems, tmp_path, tmp_path / "cache")
    found = compare(options)["systems"]
    recall = {name: each["measures"]["recall@10"]["mean"] for name, each in found.items()}
    assert recall["tiny-hnsw"] == recall["tiny"]  # 24 items, all of them looked at
    assert found["tiny-hnsw"]["note"] == "16 dimensions, HNSW, ef_search 24, ann_recall@10 1.0000"
    assert found["tiny-8"]["note"] == "8 dimensions, exact"
    spent = {name: each["p50_ms"] for name, each in found.items()}
    assert list(spent["tiny"]) == list(spent["tiny-hnsw"]) == ["encode", "search"]
    assert (list(spent["bm25"]), list(spent["rrf"])) == (["search"], ["fuse"])
    assert found["tiny-hnsw"]["options"] == {"dim": 16, "ef_search": 24}
    assert found["tiny-hnsw"]["ann_recall@10"] == 1.0
    assert all(ms > 0 for each in spent.values() for ms in each.values())
    in_all = sum(ms for name in ("tiny", "bm25", "rrf") for ms in spent[name].values())
    assert found["rrf"]["query_ms"] == pytest.approx(in_all, abs=0.001)
    assert found["rrf"]["note"].endswith("tuned on dev")
    assert found["mixed"]["note"] == "tiny and bm25, alpha 0, short_alpha 0, as given"
    report = (tmp_path / "report.md").read_text()
    assert all(f"]({name}.png)" in report for name in ("systems", "recall_latency", "dims"))
    # All weight on BM25, which finds each by its color and thing.
    assert recall["bm25"] == recall["mixed"] == 1.0 > recall["tiny"]


def test_more_dimensions_than_there_are_are_refused(tiny_model, tiny_data, tmp_path):
    options = EvaluateOptions(tiny_data, [f"{tiny_model}?dim=32"], tmp_path, tmp_path / "cache")
    with pytest.raises(CommandError, match=r"tiny: dim is 32; allowed 1\.\.16"):
        compare(options)
