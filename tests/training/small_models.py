"""Models with random weights, small enough that a test makes them, with a real one's tokenizer."""

import shutil

import numpy as np
import onnxruntime
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import Tokenizer
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    ModernBertConfig,
    ModernBertModel,
    MPNetConfig,
    MPNetForSequenceClassification,
    MPNetModel,
    Qwen3Config,
    Qwen3Model,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5EncoderModel,
)

BERT = (BertModel, BertConfig, {"type_vocab_size": 2})
MPNET = (MPNetModel, MPNetConfig, {})
ROBERTA = (RobertaModel, RobertaConfig, {"pad_token_id": 1})
DISTILBERT = (
    DistilBertModel,
    DistilBertConfig,
    {"dim": 128, "n_layers": 2, "n_heads": 4, "hidden_dim": 256},
)
# Every second layer sees 8 tokens to either side.
MODERNBERT = (
    ModernBertModel,
    ModernBertConfig,
    {
        "local_attention": 16,
        "global_attn_every_n_layers": 2,
        "pad_token_id": 0,
        "bos_token_id": 101,
        "eos_token_id": 102,
        "cls_token_id": 101,
        "sep_token_id": 102,
    },
)
T5 = (
    T5EncoderModel,
    T5Config,
    {"d_model": 128, "d_kv": 32, "d_ff": 256, "num_layers": 2, "num_heads": 4},
)
# Each token sees those before it, and two heads share their keys.
QWEN3 = (Qwen3Model, Qwen3Config, {"num_key_value_heads": 2, "head_dim": 32})
BERT_SCORES = (BertForSequenceClassification, BertConfig, {"type_vocab_size": 2})
MPNET_SCORES = (MPNetForSequenceClassification, MPNetConfig, {})
MAX_TOKENS = 48
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt",
)  # fmt: skip


def make_model(
    folder,
    tokenizer_folder,
    kind=BERT,
    pooling="mean",
    vocab_size=30_522,
    max_tokens=MAX_TOKENS,
    include_prompt=True,
    behind=(),
    **settings,
):
    """Save a small bi-encoder; `behind` are modules after its pooling, `settings` its prompts."""
    backbone = make_backbone(
        folder.with_name(f"{folder.name}-backbone"), tokenizer_folder, kind, vocab_size=vocab_size
    )
    transformer = Transformer(str(backbone), max_seq_length=max_tokens)
    pooled = Pooling(128, pooling, include_prompt=include_prompt)
    SentenceTransformer(modules=[transformer, pooled, *behind], device="cpu", **settings).save(
        str(folder)
    )
    return folder


def vectors_of(bundle, texts):
    """Embed each text with a bundle's files alone, as its readers do."""
    session = onnxruntime.InferenceSession(str(bundle / "model.onnx"))
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    rows = []
    for text in texts:
        ids = np.array([tokenizer.encode(text).ids], dtype=np.int64)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        rows.append(session.run(["embedding"], feed)[0][0])
    return np.stack(rows)


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
