"""The first hits of a system in the order that a cross-encoder gives them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from rpc.terminal import CommandError
from training.bundle_files import CROSS_ENCODER, ENCODER_FILE
from training.embeddings import TextEncoder, embed, hash_of
from training.fusion import Hits

Floats = NDArray[np.float32]
Pair = tuple[str, str]

BATCH_PAIRS = 32


@dataclass(frozen=True, slots=True)
class PairScorer:
    """What scores pairs of a query and an item's text.

    Attributes:
        name: for people.
        fingerprint: stands for all that changes a score.
        score: from pairs to raw scores, float32 of shape (n,); larger is better.
    """

    name: str
    fingerprint: str
    score: Callable[[Sequence[Pair]], Floats]


def open_scorer(path_or_id: str) -> PairScorer:
    """Return the cross-encoder of a bundle or of a sentence-transformers model.

    Raises:
        CommandError: there is none, or it is a bi-encoder.
    """
    folder = Path(path_or_id).expanduser()
    if (folder / ENCODER_FILE).is_file():
        return _bundle_scorer(folder)
    return _torch_scorer(path_or_id)


def score_once(scorer: PairScorer, pairs: Sequence[Pair], cache: Path, what: str) -> Floats:
    """Return scores of shape (n,); only pairs that are new are scored.

    Args:
        scorer: makes the scores.
        pairs: may hold a pair several times.
        cache: folder of all that was made, by scorer and pair.
        what: what the progress bar calls it.
    """

    def encode(texts: Sequence[str]) -> Floats:
        return scorer.score([tuple(orjson.loads(text)) for text in texts]).reshape(-1, 1)

    # A pair is kept as embeddings are: as a text of two texts, with a vector of one number.
    kept = TextEncoder(scorer.name, scorer.fingerprint, 1, {}, encode)
    return embed(kept, [orjson.dumps(pair).decode() for pair in pairs], cache, what).reshape(-1)


def rerank(hits: Hits, scores: Sequence[Floats]) -> Hits:
    """Return hits with the first of each query by score, ties as they stood.

    The others stay behind them, in their order, with the least of the scores: what is fused with
    these hits tells them apart.

    Args:
        hits: rows of shape (q, k).
        scores: one for each of a query's first hits; a query may have less.

    >>> found = Hits(np.array([[7, 3, 9]]), np.array([[0.9, 0.8, 0.7]], np.float32))
    >>> rerank(found, [np.array([1.0, 4.0], np.float32)]).rows.tolist()
    [[3, 7, 9]]
    """
    rows, points = hits.rows.copy(), np.empty_like(hits.scores)
    for query, found in enumerate(scores):
        order = np.argsort(-found, kind="stable")
        rows[query, : len(found)] = hits.rows[query, order]
        points[query, : len(found)] = found[order]
        points[query, len(found) :] = found.min() if len(found) else 0.0
    return Hits(rows, points)


def _torch_scorer(path_or_id: str) -> PairScorer:
    from training.model_source import find_model, kind_of
    from training.torch_reranker import load_model, score_pairs

    source = find_model(path_or_id)
    if (kind := kind_of(source)) != CROSS_ENCODER:
        raise CommandError(f"{source.location} is a {kind}; a {CROSS_ENCODER} is needed")
    model = load_model(source)
    return PairScorer(
        source.name,
        f"torch-{hash_of(model)}",
        lambda pairs: score_pairs(model, pairs, BATCH_PAIRS),
    )


def _bundle_scorer(folder: Path) -> PairScorer:
    """Return a bundle's cross-encoder: each pair alone at its true length, as the service does."""
    from training.bundle_model import open_bundle

    bundle = open_bundle(folder, CROSS_ENCODER)
    return PairScorer(
        bundle.name, f"bundle-{bundle.encoder_id}", lambda pairs: bundle.run(pairs).reshape(-1)
    )
