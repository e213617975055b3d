"""One bundle ready to encode: its tokenizer, its graph, and proof that they work here."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encoder_service.bundle import EncoderBundle, References, read_references
from encoder_service.session import Session
from encoder_service.tokenizer import Tokenizer, Tokens
from rpc.cpu import cpu_features
from rpc.errors import DataLoss

Vectors = NDArray[np.float32]

# Lengths that memory and caches are warmed with, in tokens.
WARM_LENGTHS = (4, 8, 16, 32, 64, 128, 256, 512)


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

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Return the tokens of each text, special tokens included."""
        return self.tokenizer.tokenize(texts)

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Return unit vectors of shape (n, dim); prompts are the caller's to add."""
        return self.embed(self.tokenize(texts))

    def embed(self, tokens: Sequence[Tokens]) -> Vectors:
        """Return unit vectors of shape (n, dim), each text run on its own."""
        vectors = np.empty((len(tokens), self.bundle.dim), dtype=np.float32)
        for row, entry in enumerate(tokens):
            vectors[row] = self.session.embed(entry.ids)
        return vectors

    def check_references(self) -> ReferenceCheck:
        """Encode the reference texts and compare with the vectors recorded at export."""
        here = self.encode(self.references.texts).astype(np.float64)
        cosines = (here * self.references.vectors.astype(np.float64)).sum(axis=1)
        # A vector that is not finite is worse than any: NaN must not pass a comparison.
        cosines = np.nan_to_num(cosines, nan=-1.0)
        return ReferenceCheck(len(cosines), float(cosines.mean()), float(cosines.min()))

    def warm(self) -> None:
        """Run once at each usual length, so that no caller pays for a first time."""
        for length in WARM_LENGTHS:
            if length <= self.bundle.max_tokens:
                self.session.embed(np.ones((1, length), dtype=np.int64))


def load_encoder(bundle: EncoderBundle) -> Encoder:
    """Load a bundle's parts.

    Raises:
        DataLoss: a part cannot be loaded, or does not belong to the others.
    """
    tokenizer = Tokenizer(bundle)
    session = Session(bundle)
    _require_fit(bundle, tokenizer, session)
    return Encoder(bundle, tokenizer, session, read_references(bundle), cpu_features())


def _require_fit(bundle: EncoderBundle, tokenizer: Tokenizer, session: Session) -> None:
    """Run the tokenizer's largest token through the graph, which fails when it has no such row."""
    largest = tokenizer.largest_id()
    try:
        session.embed(np.array([[largest]], dtype=np.int64))
    except Exception as exc:  # onnxruntime's errors share no base of their own
        raise DataLoss(
            str(bundle.tokenizer_path),
            f"has token id {largest}, which {bundle.model_path.name} does not know: it belongs to "
            "another model",
        ) from exc
