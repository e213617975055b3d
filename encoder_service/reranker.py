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
from encoder_service.encoder import require_fit, warm_lengths
from encoder_service.session import Session
from encoder_service.tokenizer import Text, Tokenizer, Tokens

Scores = NDArray[np.float32]

_OUTPUT = "score"


@dataclass(frozen=True, slots=True)
class PairCheck:
    """How scores made here compare with the recorded ones, over all reference pairs."""

    pairs: int
    spearman: float
    largest_difference: float


@dataclass(frozen=True, slots=True)
class Reranker:
    """A loaded cross-encoder; safe to use from several threads."""

    bundle: EncoderBundle
    tokenizer: Tokenizer
    session: Session
    references: PairReferences

    @property
    def width(self) -> tuple[int, ...]:
        """Return the shape of one pair's result: a number."""
        return ()

    def estimate(self, text: Text) -> int:
        """Return about how many tokens a pair has."""
        return self.tokenizer.estimate(text)

    def tokenize(self, texts: Sequence[Text]) -> list[Tokens]:
        """Return the tokens of each pair; the longer of the two texts is cut first."""
        return self.tokenizer.tokenize(texts)

    def run(self, tokens: Tokens, *, alone: bool = False) -> Any:
        """Return one pair's score; each pair runs on its own, so it depends on the pair alone."""
        return self.session.run(tokens, alone=alone)

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

    def warm(self) -> None:
        """Run once at each length bucket, so that no caller pays for a first time."""
        self.session.warm(warm_lengths(self.bundle.max_tokens))


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
