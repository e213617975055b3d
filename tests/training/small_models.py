"""Models with random weights, small enough that a test makes them, with a real one's tokenizer."""

import shutil

from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    MPNetConfig,
    MPNetForSequenceClassification,
    MPNetModel,
)

BERT = (BertModel, BertConfig, {"type_vocab_size": 2})
MPNET = (MPNetModel, MPNetConfig, {})
BERT_SCORES = (BertForSequenceClassification, BertConfig, {"type_vocab_size": 2})
MPNET_SCORES = (MPNetForSequenceClassification, MPNetConfig, {})
MAX_TOKENS = 48
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt",
)  # fmt: skip


def make_model(folder, tokenizer_folder, kind=BERT, pooling="mean", vocab_size=30_522):
    """Save a small bi-encoder."""
    backbone = make_backbone(
        folder.with_name(f"{folder.name}-backbone"), tokenizer_folder, kind, vocab_size=vocab_size
    )
    transformer = Transformer(str(backbone), max_seq_length=MAX_TOKENS)
    SentenceTransformer(modules=[transformer, Pooling(128, pooling)], device="cpu").save(
        str(folder)
    )
    return folder


def make_cross_encoder(folder, tokenizer_folder, kind=BERT_SCORES, num_labels=1, **changes):
    """Save a small cross-encoder."""
    backbone = make_backbone(
        folder.with_name(f"{folder.name}-backbone"),
        tokenizer_folder,
        kind,
        num_labels=num_labels,
        **changes,
    )
    model = CrossEncoder(str(backbone), max_length=MAX_TOKENS, device="cpu")
    model.save_pretrained(str(folder))
    return folder


def make_backbone(folder, tokenizer_folder, kind=BERT, vocab_size=30_522, **changes):
    """Save a small transformers model, without anything of sentence-transformers."""
    model_class, config_class, extra = kind
    shape = {
        "hidden_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 256,
        "max_position_embeddings": 64,
        "initializer_range": 0.1,
    }
    config = config_class(vocab_size=vocab_size, **(shape | extra | changes))
    model_class(config).save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copy(tokenizer_folder / name, folder / name)
    return folder
