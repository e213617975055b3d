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
from encoder_service.model import LoadedModel, require_fit
from encoder_service.session import Session
from encoder_service.settings import ReferenceSettings
from encoder_service.tokenizer import Tokenizer
from rpc.cpu import cpu_features

Vectors = NDArray[np.float32]

_OUTPUT = "embedding"


@dataclass(frozen=True, slots=True)
class ReferenceCheck:
    """Cosine of vectors made here to the recorded ones, over all reference texts."""

    texts: int
    mean: float
    least: float

    def shortfall(self, limits: ReferenceSettings) -> str:
        """Say in which way the vectors are not the recorded ones; empty when they are."""
        if not self.mean >= limits.reference_cosine_min:
            return (
                f"vectors made on this processor have a mean cosine of {self.mean:.4f} to the "
                f"recorded ones; at least {limits.reference_cosine_min} is needed"
            )
        if not self.least >= limits.reference_cosine_each_min:
            return (
                f"a vector made on this processor has a cosine of {self.least:.4f} to the recorded "
                f"one; each needs at least {limits.reference_cosine_each_min}"
            )
        return ""

    def figures(self) -> dict[str, Any]:
        """Return what was measured, by name."""
        return {
            "reference_texts": self.texts,
            "reference_cosine_mean": round(self.mean, 6),
            "reference_cosine_min": round(self.least, 6),
        }


@dataclass(frozen=True, slots=True)
class Encoder(LoadedModel):
    """A loaded bi-encoder."""

    references: References
    cpu_features: list[str]

    @property
    def width(self) -> tuple[int, ...]:
        """Return the shape of one text's result."""
        return (self.bundle.dim,)

    @property
    def verified_here(self) -> bool:
        """Tell whether the bundle was measured on a processor like this one before."""
        return self.bundle.is_verified_on(self.cpu_features)

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
    if layout is Layout.AUTO:
        session.measure_spread(bundle.max_tokens)
    return Encoder(bundle, tokenizer, session, read_references(bundle), cpu_features())
