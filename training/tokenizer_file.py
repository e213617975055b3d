"""A model's tokenizer as the one file that every bundle carries."""

from typing import Any

from tokenizers import Tokenizer

from rpc.terminal import CommandError


def tokenizer_json(tokenizer: Any, max_tokens: int, num_rows: int) -> str:
    """Return a tokenizers file that neither pads nor keeps more than max_tokens tokens.

    Args:
        tokenizer: a transformers tokenizer.
        max_tokens: what a text or pair is cut to, the longer of a pair first.
        num_rows: rows of the table in which the model looks tokens up.

    Raises:
        CommandError: the model has no fast tokenizer, or one with tokens that it has no row for.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise CommandError(
            "the model has no fast tokenizer: save it again with a tokenizer.json, as "
            "AutoTokenizer.from_pretrained(..., use_fast=True).save_pretrained(...) does"
        )
    copy = Tokenizer.from_str(backend.to_str())
    if copy.get_vocab_size(with_added_tokens=True) <= len(tokenizer.all_special_ids):
        # What transformers makes up where a folder has no tokenizer: every word is unknown to it.
        raise CommandError(
            "the model has no vocabulary: its tokenizer.json or vocab.txt is missing; copy the "
            "tokenizer's files beside its weights"
        )
    copy.no_padding()
    copy.enable_truncation(
        max_length=max_tokens, strategy="longest_first", direction=tokenizer.truncation_side
    )
    largest = max(copy.get_vocab(with_added_tokens=True).values(), default=0)
    if largest >= num_rows:
        raise CommandError(
            f"the tokenizer has token id {largest}, but the model's embedding table ends at id "
            f"{num_rows - 1}: they belong to different models; give the model the tokenizer that "
            "it was trained with"
        )
    return str(copy.to_str())


def num_token_rows(backbone: Any) -> int:
    """Return how many tokens a transformers model has a row for."""
    return int(backbone.get_input_embeddings().weight.shape[0])
