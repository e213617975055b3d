"""Whether a text's vector depends on the texts that are encoded with it."""

import random
from collections.abc import Sequence

import numpy as np

from benchmarks.encoder_systems import System
from training.agreement import cosines
from training.reference_texts import generate_texts

BATCH = 32
NUM_TEXTS = 200
CHARS_MAX = 200
_SEED = 17


def neighbour_texts() -> list[str]:
    """Return 200 queries, titles and reviews of at most 200 characters, their order shuffled."""
    texts = [text for text in generate_texts(2 * NUM_TEXTS, seed=_SEED) if len(text) <= CHARS_MAX]
    random.Random(_SEED).shuffle(texts)
    assert len(texts) >= NUM_TEXTS
    return texts[:NUM_TEXTS]


def neighbour_cosines(system: System, texts: Sequence[str]) -> dict[str, float]:
    """Return mean and least cosine of a text encoded alone to the same in a batch of 32.

    Args:
        system: makes unit vectors, shape (n, dim).
        texts: in the order in which they share batches.
    """
    alone = np.concatenate([system.encode([text]) for text in texts])
    batches = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
    together = np.concatenate([system.encode(batch) for batch in batches])
    near = cosines(alone, together)
    return {"cosine_mean": round(float(near.mean()), 6), "cosine_min": round(float(near.min()), 6)}
