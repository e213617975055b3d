"""What INT8 loses of retrieval and of reranking, against judgements given or generated."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rpc.terminal import progress_bar
from training import onnx_run
from training.beir import Collection, load_collection
from training.generated_queries import generated_collection
from training.ranking import MEASURES, evaluate, evaluate_vectors

Floats = NDArray[np.float32]
Pair = tuple[str, str]

GIVEN, GENERATED = "given", "generated"
GENERATED_ITEMS, GENERATED_QUERIES = 500, 200
RERANKED_QUERIES_MAX = 200
GENERATED_RERANKED_QUERIES = 40
CANDIDATES = 20
INT8_ITEMS, FP32_ITEMS = "int8_over_int8_items", "int8_over_fp32_items"
RERANKED = "int8"
_RERANKING_MEASURE = "ndcg@10"
_TEXTS_A_STEP = 256


def judgements_of(folder: Path | None) -> tuple[Collection, str]:
    """Return a BEIR folder's collection, or a generated one, and which it is.

    Raises:
        CommandError: the folder cannot be read.
    """
    if folder is not None:
        return load_collection(folder), GIVEN
    return generated_collection(GENERATED_ITEMS, GENERATED_QUERIES), GENERATED


def measure_retrieval(
    collection: Collection,
    prompts: Mapping[str, str],
    tokenizer: Tokenizer,
    full: Any,
    small: Any,
) -> dict[str, Any]:
    """Return recall@10 and ndcg@10 in FP32, and of INT8 queries over either kind of items.

    Args:
        collection: items, queries and judgements.
        prompts: what is put before a "query" and an "item".
        tokenizer: the encoder's.
        full: the FP32 session.
        small: the INT8 session.
    """
    queries = [prompts["query"] + text for text in collection.query_texts]
    items = [prompts["item"] + text for text in collection.item_texts]
    with progress_bar("measuring retrieval", total=2 * (len(queries) + len(items))) as advance:
        query, item = (
            {
                kind: _run(session, tokenizer, texts, advance)
                for kind, session in (("fp32", full), ("int8", small))
            }
            for texts in (queries, items)
        )
    pairings = {
        "fp32": (query["fp32"], item["fp32"]),
        FP32_ITEMS: (query["int8"], item["fp32"]),
        INT8_ITEMS: (query["int8"], item["int8"]),
    }
    found: dict[str, Any] = {"queries": len(queries), "items": len(items)}
    for name, (left, right) in pairings.items():
        means = evaluate_vectors(collection, left, right).means
        for measure in MEASURES:
            found[f"{measure.replace('@', '_at_')}_{name}"] = round(means[measure], 6)
    return found


def measure_reranking(
    collection: Collection,
    num_queries: int,
    tokenizer: Tokenizer,
    full: Any,
    small: Any,
    *,
    types: bool,
) -> dict[str, Any]:
    """Return ndcg@10 of candidates reranked in FP32 and in INT8.

    A query's candidates are the items judged for it, filled up with others at random.

    Args:
        collection: items, queries and judgements.
        num_queries: how many queries at most.
        tokenizer: the cross-encoder's.
        full: the FP32 session.
        small: the INT8 session.
        types: whether the graph takes token types.
    """
    candidates = draw_candidates(collection, num_queries)
    texts = dict(zip(collection.item_ids, collection.item_texts, strict=True))
    query_texts = dict(zip(collection.query_ids, collection.query_texts, strict=True))
    pairs = [
        (query_texts[query_id], texts[item_id])
        for query_id, item_ids in candidates.items()
        for item_id in item_ids
    ]
    qrels = {query_id: collection.qrels[query_id] for query_id in candidates}
    found: dict[str, Any] = {"queries": len(candidates), "pairs": len(pairs)}
    with progress_bar("measuring reranking", total=2 * len(pairs)) as advance:
        for name, session in (("fp32", full), ("int8", small)):
            scores = iter(_run(session, tokenizer, pairs, advance, types=types)[:, 0].tolist())
            run = {
                query_id: {item_id: next(scores) for item_id in item_ids}
                for query_id, item_ids in candidates.items()
            }
            means = evaluate(qrels, run, [_RERANKING_MEASURE]).means
            found[f"ndcg_at_10_{name}"] = round(means[_RERANKING_MEASURE], 6)
    return found


def lost_of(found: Mapping[str, Any], shipped: str) -> dict[str, float]:
    """Return what share of full precision's measures is lost; negative where something is gained.

    Args:
        found: what was measured, as "recall_at_10_fp32".
        shipped: the ending of what is shipped, as "int8_over_int8_items".

    >>> lost_of({"recall_at_10_fp32": 0.5, "recall_at_10_int8": 0.49, "queries": 7}, "int8")
    {'recall@10': 0.02}
    """
    lost = {}
    for name, full in found.items():
        measure, _, kind = name.partition("_fp32")
        if measure != name and not kind:
            share = (full - found[f"{measure}_{shipped}"]) / full if full else 0.0
            lost[measure.replace("_at_", "@")] = round(share, 6)
    return lost


def draw_candidates(collection: Collection, num_queries: int) -> dict[str, list[str]]:
    """Return, for queries drawn at random, which items are reranked, in the order of their ids."""
    draw = Random(29)  # noqa: S311 - sampling, not secrecy
    drawn = draw.sample(collection.query_ids, min(num_queries, len(collection.query_ids)))
    candidates = {}
    for query_id in sorted(drawn):
        kept = set(sorted(collection.qrels[query_id])[:CANDIDATES])
        others = draw.sample(collection.item_ids, min(CANDIDATES, len(collection.item_ids)))
        room = CANDIDATES - len(kept)
        kept |= set([item_id for item_id in others if item_id not in kept][:room])
        candidates[query_id] = sorted(kept)
    return candidates


def _run(
    session: Any,
    tokenizer: Tokenizer,
    texts: Sequence[str] | Sequence[Pair],
    advance: Any,
    *,
    types: bool = False,
) -> Floats:
    """Return what each text or pair becomes alone, shape (n, width)."""
    rows = []
    for start in range(0, len(texts), _TEXTS_A_STEP):
        some = texts[start : start + _TEXTS_A_STEP]
        rows.append(onnx_run.run_each(session, onnx_run.feeds_of(tokenizer, some, types=types)))
        advance(len(some))
    return np.concatenate(rows)
