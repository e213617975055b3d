"""What encoders are measured on: texts of an exact length, short queries, a judged collection."""

import random
from pathlib import Path
from typing import Any

from training.beir import Collection, load_collection
from training.generated_queries import generated_collection
from training.reference_texts import generate_texts, short_queries

SHORT_TOKENS = (4, 10)
SPECIAL_TOKENS = 2
HOME_DEPOT = Path(__file__).parents[1].parent / "shared" / "data" / "home_depot"


def texts_of_length(tokenizer: Any, tokens: int, count: int, seed: int) -> list[str]:
    """Return distinct texts of exactly so many tokens, special tokens included."""
    words = sorted({word for text in generate_texts(400, seed=5) for word in text.lower().split()})
    single = [word for word in words if word.isalpha() and _length(tokenizer, word) == 3]
    rng = random.Random(seed)
    texts: dict[str, None] = {}
    while len(texts) < count:
        texts[" ".join(rng.choices(single, k=tokens - SPECIAL_TOKENS))] = None
    found = list(texts)
    assert all(_length(tokenizer, text) == tokens for text in found)
    return found


def short_texts(tokenizer: Any, collection: Collection, count: int, seed: int) -> list[str]:
    """Return distinct queries of 4 to 10 tokens: the collection's, then mixtures of their words.

    Mixtures are needed only where load takes more queries than the collection has.
    """
    least, most = SHORT_TOKENS
    rng = random.Random(seed)
    real = list(dict.fromkeys(collection.query_texts))
    rng.shuffle(real)
    texts = {text: None for text in real if least <= _length(tokenizer, text) <= most}
    words = [word for text in texts for word in text.split()]
    while len(texts) < count:
        text = " ".join(rng.sample(words, rng.randint(2, 5)))
        if least <= _length(tokenizer, text) <= most:
            texts[text] = None
    return list(texts)[:count]


def judged_collection(folder: Path | None) -> tuple[Collection, str]:
    """Return a collection and what it is: the folder given, else generated."""
    if folder is None and HOME_DEPOT.is_dir():
        folder = HOME_DEPOT
    if folder is not None:
        found = load_collection(folder)
        return found, f"given: {found.name}"
    return generated_collection(2_000, 200), "generated: queries are words of one item's text each"


def calibration_texts(count: int) -> list[str]:
    """Return texts to calibrate static quantization with: half of every kind, half queries."""
    return generate_texts(count // 2, seed=11) + short_queries(count - count // 2, seed=12)


def _length(tokenizer: Any, text: str) -> int:
    return len(tokenizer.encode(text).ids)
