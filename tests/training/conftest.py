"""A bi-encoder and a data set so small that a whole training run takes a second."""

import gzip
import json
import shutil

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertModel

from training import trainer

COLORS = ("red", "blue", "green", "black", "white", "yellow")
THINGS = ("boots", "scarf", "kettle", "lamp")


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory, minilm_model):
    """The folder of a bi-encoder of 16 dimensions with random weights and dropout."""
    folder = tmp_path_factory.mktemp("models")
    config = BertConfig(
        vocab_size=30_522,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)  # with which each test finds something to learn
        BertModel(config).save_pretrained(folder / "backbone")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(minilm_model / name, folder / "backbone" / name)
    transformer = Transformer(str(folder / "backbone"), max_seq_length=32)
    model = SentenceTransformer(modules=[transformer, Pooling(16, "mean")], device="cpu")
    model.save(str(folder / "tiny"))
    return folder / "tiny"


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """A data set of 24 products with two reviews each; dev asks for what train has."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "qrels").mkdir()
    titles = [f"{color} {thing}" for color in COLORS for thing in THINGS]
    pairs = [
        {
            "_id": f"r{place}-{turn}",
            "query": f"{words} {title.split()[1]} in {title.split()[0]}",
            "positive": title,
            "group": title,
            "category": title.split()[1],
        }
        for place, title in enumerate(titles)
        for turn, words in enumerate(("I love these", "such a fine and very useful pair of"))
    ]
    _write_lines(folder / "pairs.jsonl.gz", pairs)
    _write_lines(
        folder / "corpus.jsonl.gz",
        [{"_id": f"i{place}", "title": title, "text": ""} for place, title in enumerate(titles)],
    )
    _write_lines(
        folder / "queries.jsonl.gz",
        [
            {
                "_id": f"q{place}",
                "text": pairs[2 * place]["query"],
                "metadata": {"category": title.split()[1]},
            }
            for place, title in enumerate(titles)
        ],
    )
    rows = "".join(f"q{place}\ti{place}\t1\n" for place in range(len(titles)))
    for split in ("dev", "test"):
        (folder / "qrels" / f"{split}.tsv").write_text(rows)
    (folder / "dataset.json").write_text('{"relevance": "same_title"}')
    return folder


@pytest.fixture
def interrupted_at(monkeypatch):
    """Make a training run end as Ctrl-C does, right after a step."""

    def arm(step):
        taken = trainer.take_step

        def take_step(*arguments):
            taken(*arguments)
            if arguments[1].step == step:
                raise KeyboardInterrupt

        monkeypatch.setattr(trainer, "take_step", take_step)

    return arm


def _write_lines(path, records):
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
