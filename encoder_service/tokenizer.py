"""Text to token ids, cut at the length the encoder was made for."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tokenizers
from numpy.typing import NDArray

from encoder_service.bundle import EncoderBundle
from rpc.errors import DataLoss

Text = str | tuple[str, str]

# What a token is expected to cover, for texts whose tokens are not counted yet.
_CHARS_A_TOKEN = 4
_SPECIAL_TOKENS = 2


@dataclass(frozen=True, slots=True)
class Tokens:
    """One text's token ids, int64 of shape (1, seq), and whether tokens were cut off.

    A pair has `types` too, of the same shape: 0 for the first text, 1 for the second.
    """

    ids: NDArray[np.int64]
    truncated: bool
    types: NDArray[np.int64] | None = None


class Tokenizer:
    """A bundle's tokenizer; safe to use from several threads."""

    def __init__(self, bundle: EncoderBundle) -> None:
        """Load the tokenizer.

        Raises:
            DataLoss: the file is no tokenizer.
        """
        path = str(bundle.tokenizer_path)
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(path)
        except Exception as exc:  # the library raises bare Exception
            raise DataLoss(path, f"is not a tokenizer file: {exc}") from exc
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length=bundle.max_tokens, strategy="longest_first")
        self.max_tokens = bundle.max_tokens
        self._nothing = self._unknown_id()

    def largest_id(self) -> int:
        """Return the largest token id that a text can have."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=0)

    def tokenize(self, texts: Sequence[Text]) -> list[Tokens]:
        """Return the tokens of each text or pair, special tokens included.

        A text without any, which a tokenizer that adds no special ones may give, becomes the
        unknown token: a graph needs something to run.
        """
        return [
            self._tokens_of(entry, pair=isinstance(text, tuple))
            for text, entry in zip(
                texts, self._tokenizer.encode_batch_fast(list(texts)), strict=True
            )
        ]

    def estimate(self, text: Text) -> int:
        """Return about how many tokens a text or pair has, from its length alone."""
        size = len(text) if isinstance(text, str) else sum(map(len, text))
        return min(self.max_tokens, _SPECIAL_TOKENS + size // _CHARS_A_TOKEN)

    def _tokens_of(self, entry: tokenizers.Encoding, *, pair: bool) -> Tokens:
        ids, types = entry.ids or [self._nothing], entry.type_ids or [0]
        return Tokens(
            np.array([ids], dtype=np.int64),
            bool(entry.overflowing),
            np.array([types], dtype=np.int64) if pair else None,
        )

    def _unknown_id(self) -> int:
        """Return the unknown token's id; 0, the first token's, where there is none."""
        name = getattr(self._tokenizer.model, "unk_token", None)
        return (self._tokenizer.token_to_id(name) if name else None) or 0
