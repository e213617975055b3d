"""One bundle ready to encode: its tokenizer, its graph, and proof that they work here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoder_service.bundle import (
    BI_ENCODER,
    EncoderBundle,
    References,
    read_references,
    require_kind,
)
from encoder_service.layout import Layout
from encoder_service.session import Session
from encoder_service.tokenizer import Text, Tokenizer, Tokens
from rpc.cpu import cpu_features
from rpc.errors import DataLoss

Vectors = NDArray[np.float32]

_OUTPUT = "embedding"


@dataclass(frozen=True, slots=True)
class ReferenceCheck:
    """Cosine of vectors made here to the recorded ones, over all reference texts."""

    texts: int
    mean: float
    least: float


@dataclass(frozen=True, slots=True)
class Encoder:
    """A loaded bundle; safe to use from several threads."""

    bundle: EncoderBundle
    tokenizer: Tokenizer
    session: Session
    references: References
    cpu_features: list[str]

    @property
    def width(self) -> tuple[int, ...]:
        """Return the shape of one text's result."""
        return (self.bundle.dim,)

    def estimate(self, text: Text) -> int:
        """Return about how many tokens a text has."""
        return self.tokenizer.estimate(text)

    def tokenize(self, texts: Sequence[Text]) -> list[Tokens]:
        """Return the tokens of each text, special tokens included."""
        return self.tokenizer.tokenize(texts)

    def run(self, tokens: Tokens, *, alone: bool = False) -> Any:
        """Return one text's unit vector, float32 of shape (dim,)."""
        return self.session.run(tokens, alone=alone)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return unit vectors of shape (n, dim), each text run on its own.

        Prompts are the caller's to add. A layout that has every core for a lone text uses it here.
        """
        vectors = np.empty((len(texts), self.bundle.dim), dtype=np.float32)
        for row, tokens in enumerate(self.tokenize(texts)):
            vectors[row] = self.run(tokens, alone=True)
        return vectors

    def check_references(self) -> ReferenceCheck:
        """Encode the reference texts and compare with the vectors recorded at export."""
        here = self.encode(self.references.texts).astype(np.float64)
        cosines = (here * self.references.vectors.astype(np.float64)).sum(axis=1)
        # A vector that is not finite is worse than any: NaN must not pass a comparison.
        cosines = np.nan_to_num(cosines, nan=-1.0)
        return ReferenceCheck(len(cosines), float(cosines.mean()), float(cosines.min()))

    def warm(self) -> None:
        """Run once at each length bucket, so that no caller pays for a first time."""
        self.session.warm(warm_lengths(self.bundle.max_tokens))


def load_encoder(bundle: EncoderBundle, layout: Layout = Layout.THROUGHPUT) -> Encoder:
    """Load a bundle's parts.

    Raises:
        DataLoss: a part cannot be loaded, or does not belong to the others.
        FailedPrecondition: the bundle holds no bi-encoder.
    """
    require_kind(bundle, BI_ENCODER)
    tokenizer = Tokenizer(bundle)
    session = Session(bundle, output=_OUTPUT, width=bundle.dim, layout=layout)
    require_fit(bundle, tokenizer, session)
    return Encoder(bundle, tokenizer, session, read_references(bundle), cpu_features())


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
