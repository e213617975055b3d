"""Query vectors for the index's benchmarks: texts in, one a line, `.npy` out.

`python -m benchmarks.query_vectors --bundle DIR --texts queries.jsonl.gz --out queries.npy`
"""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import orjson
import typer

from encoder_service.bundle import load_bundle
from encoder_service.encoder import load_encoder
from rpc.terminal import errors_as_sentences

_SEED = 0


def main(
    bundle: Annotated[Path, typer.Option(help="Encoder bundle of the items.")],
    texts: Annotated[
        Path, typer.Option(help='Plain lines, or JSON lines with "text"; .gz of either.')
    ],
    out: Annotated[Path, typer.Option(help="File to write, float32, shape (count, dim).")],
    count: Annotated[int, typer.Option(help="How many, drawn with a fixed seed.")] = 1_000,
) -> None:
    """Embed some texts as queries."""
    with errors_as_sentences():
        loaded = load_bundle(bundle)
        lines = list(read_texts(texts))
        drawn = np.random.default_rng(_SEED).permutation(len(lines))[:count]
        queries = [loaded.prompts.query + lines[place] for place in drawn]
        np.save(out, load_encoder(loaded).encode(queries))


def read_texts(path: Path) -> Iterator[str]:
    """Yield the text of each line that is not empty."""
    open_text = gzip.open if path.suffix == ".gz" else open
    is_json = ".jsonl" in path.suffixes
    with open_text(path, "rt", encoding="utf-8") as lines:
        for line in filter(str.strip, lines):
            yield orjson.loads(line)["text"] if is_json else line.strip()


if __name__ == "__main__":
    typer.run(main)
