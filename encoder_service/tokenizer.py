"""Text to token ids, cut at the length the encoder was made for."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tokenizers
from numpy.typing import NDArray

from encoder_service.bundle import EncoderBundle
from rpc.errors import DataLoss


@dataclass(frozen=True, slots=True)
class Tokens:
    """One text's token ids, int64 of shape (1, seq), and whether tokens were cut off."""

    ids: NDArray[np.int64]
    truncated: bool


class Tokenizer:
    """A bundle's tokenizer; safe to use from several threads."""

    def __init__(self, bundle: EncoderBundle) -> None:
        """Load the tokenizer.

        Raises:
            DataLoss: the file the file is no tokenizer.
        """
        path = str(bundle.tokenizer_path)
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(path)
        except Exception as exc:  # the library raises bare Exception
            raise DataLoss(path, f"is not a tokenizer file: {exc}") from exc
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length=bundle.max_tokens)
        self.max_tokens = bundle.max_tokens

    def largest_id(self) -> int:
        """Return the largest token id that a text can have."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=0)

    def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        """Return the tokens of each text, special tokens included."""
        return [
            Tokens(np.array([entry.ids], dtype=np.int64), bool(entry.overflowing))
            for entry in self._tokenizer.encode_batch_fast(list(texts))
        ]
