"""What INT8 loses of retrieval, against judgements, in both pairings of queries and items."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rpc.terminal import progress_bar
from training import onnx_run
from training.beir import Collection
from training.ranking import MEASURES, evaluate_vectors

Floats = NDArray[np.float32]
_TEXTS_A_STEP = 256


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
                kind: _embed(session, tokenizer, texts, advance)
                for kind, session in (("fp32", full), ("int8", small))
            }
            for texts in (queries, items)
        )
    pairings = {
        "fp32": (query["fp32"], item["fp32"]),
        "int8_over_fp32_items": (query["int8"], item["fp32"]),
        "int8_over_int8_items": (query["int8"], item["int8"]),
    }
    found: dict[str, Any] = {
        "queries": len(queries),
        "items": len(items),
        "judgements": "given",
    }
    for name, (left, right) in pairings.items():
        means = evaluate_vectors(collection, left, right).means
        for measure in MEASURES:
            found[f"{measure.replace('@', '_at_')}_{name}"] = round(means[measure], 6)
    return found


def _embed(session: Any, tokenizer: Tokenizer, texts: Sequence[str], advance: Any) -> Floats:
    """Return unit vectors, shape (n, dim), each text run alone."""
    rows = []
    for start in range(0, len(texts), _TEXTS_A_STEP):
        some = texts[start : start + _TEXTS_A_STEP]
        rows.append(onnx_run.embed_each(session, onnx_run.token_ids(tokenizer, some)))
        advance(len(some))
    return np.concatenate(rows)
