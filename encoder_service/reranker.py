"""One cross-encoder bundle ready to score pairs of query and text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoder_service.bundle import (
    CROSS_ENCODER,
    EncoderBundle,
    PairReferences,
    read_pair_references,
    require_kind,
)
from encoder_service.model import LoadedModel, require_fit
from encoder_service.session import Session
from encoder_service.settings import ReferenceSettings
from encoder_service.tokenizer import Tokenizer

Scores = NDArray[np.float32]

_OUTPUT = "score"


@dataclass(frozen=True, slots=True)
class PairCheck:
    """How scores made here compare with the recorded ones, over all reference pairs."""

    pairs: int
    spearman: float
    largest_difference: float

    def shortfall(self, limits: ReferenceSettings) -> str:
        """Say in which way the scores are not the recorded ones; empty when they are."""
        if self.spearman >= limits.reranker_spearman_min:
            return ""
        return (
            f"scores made on this processor have a rank correlation of {self.spearman:.4f} with "
            f"the recorded ones; at least {limits.reranker_spearman_min} is needed"
        )

    def figures(self) -> dict[str, Any]:
        """Return what was measured, by name."""
        return {
            "reference_pairs": self.pairs,
            "reference_spearman": round(self.spearman, 6),
            "reference_largest_difference": round(self.largest_difference, 6),
        }


@dataclass(frozen=True, slots=True)
class Reranker(LoadedModel):
    """A loaded cross-encoder."""

    references: PairReferences

    @property
    def width(self) -> tuple[int, ...]:
        """Return the shape of one pair's result: a number."""
        return ()

    def score(self, pairs: Sequence[tuple[str, str]]) -> Scores:
        """Return scores of shape (n,); larger is better."""
        return np.array([self.run(tokens) for tokens in self.tokenize(pairs)], dtype=np.float32)

    def check_references(self) -> PairCheck:
        """Score the reference pairs and compare with the scores recorded at export."""
        here = self.score(self.references.pairs)
        differences = np.abs(here - self.references.scores)
        return PairCheck(
            len(here), spearman(here, self.references.scores), float(differences.max(initial=0.0))
        )


def load_reranker(bundle: EncoderBundle) -> Reranker:
    """Load a cross-encoder bundle's parts.

    Raises:
        DataLoss: a part cannot be loaded, or does not belong to the others.
        FailedPrecondition: the bundle holds no cross-encoder.
    """
    require_kind(bundle, CROSS_ENCODER)
    tokenizer = Tokenizer(bundle)
    session = Session(bundle, output=_OUTPUT, width=None)
    require_fit(bundle, tokenizer, session)
    return Reranker(bundle, tokenizer, session, read_pair_references(bundle))


def spearman(left: Scores, right: Scores) -> float:
    """Return the rank correlation of two rankings, -1 where there is none.

    >>> round(spearman(np.float32([1, 5, 9]), np.float32([0.1, 0.2, 0.3])), 6)
    1.0
    """
    if len(left) < 2 or not (np.isfinite(left).all() and np.isfinite(right).all()):
        return -1.0
    return float(np.corrcoef(_ranks(left), _ranks(right))[0, 1])


def _ranks(scores: Scores) -> NDArray[np.float64]:
    return np.argsort(np.argsort(scores, kind="stable")).astype(np.float64)
