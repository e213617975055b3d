"""What a loaded bundle of either kind is: a tokenizer and a graph that belong together."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from encoder_service.bundle import EncoderBundle
from encoder_service.session import Session
from encoder_service.tokenizer import Text, Tokenizer, Tokens
from rpc.errors import DataLoss


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A loaded bundle; safe to use from several threads."""

    bundle: EncoderBundle
    tokenizer: Tokenizer
    session: Session

    def estimate(self, text: Text) -> int:
        """Return about how many tokens a text or pair has."""
        return self.tokenizer.estimate(text)

    def tokenize(self, texts: Sequence[Text]) -> list[Tokens]:
        """Return the tokens of each text or pair, special tokens included."""
        return self.tokenizer.tokenize(texts)

    def run(self, tokens: Tokens, *, alone: bool = False) -> Any:
        """Return one text's unit vector, float32 of shape (dim,), or one pair's score.

        Each is run on its own, so what it gets depends on it alone.
        """
        return self.session.run(tokens, alone=alone)

    def warm(self) -> None:
        """Run once at each length bucket, so that no caller pays for a first time."""
        self.session.warm(warm_lengths(self.bundle.max_tokens))


def warm_lengths(max_tokens: int) -> tuple[int, ...]:
    """Return the powers of two below max_tokens, and max_tokens, in tokens.

    >>> warm_lengths(100)
    (4, 8, 16, 32, 64, 100)
    """
    lengths = []
    length = 4
    while length < max_tokens:
        lengths.append(length)
        length *= 2
    return (*lengths, max_tokens)


def require_fit(bundle: EncoderBundle, tokenizer: Tokenizer, session: Session) -> None:
    """Run the tokenizer's largest token and longest text through the graph.

    It fails when the graph has no such row.

    Raises:
        DataLoss: tokenizer, max_tokens and graph do not belong together.
    """
    largest = tokenizer.largest_id()
    try:
        session.run(Tokens(np.array([[largest]], dtype=np.int64), truncated=False))
    except Exception as exc:  # onnxruntime's errors share no base of their own
        raise DataLoss(
            str(bundle.tokenizer_path),
            f"has token id {largest}, which {bundle.model_path.name} does not know: it belongs to "
            "another model",
        ) from exc
    try:
        session.run(Tokens(np.ones((1, bundle.max_tokens), dtype=np.int64), truncated=False))
    except Exception as exc:
        raise DataLoss(
            str(bundle.model_path),
            f"cannot take {bundle.max_tokens} tokens, the max_tokens of its encoder.json",
        ) from exc
