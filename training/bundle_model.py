"""A bundle's model as evaluation runs it: each text or pair alone, one thread a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rpc.terminal import CommandError
from training import onnx_run
from training.bundle_files import BI_ENCODER, ENCODER_FILE, MODEL_FILE, TOKENIZER_FILE

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class BundleModel:
    """What is needed of a bundle to run it."""

    name: str
    encoder_id: str
    dim: int
    prompts: Mapping[str, str]
    tokenizer: Tokenizer
    session: Any

    def run(self, texts: Sequence[onnx_run.Text]) -> Floats:
        """Return embeddings or scores of shape (n, dim), each text at its true length."""
        types = onnx_run.TYPES in {taken.name for taken in self.session.get_inputs()}
        feeds = onnx_run.feeds_of(self.tokenizer, texts, types=types)
        return onnx_run.run_each(self.session, feeds)


def open_bundle(folder: Path, kind: str) -> BundleModel:
    """Return the model of a bundle of one kind.

    Raises:
        CommandError: it is of the other kind, or cannot be read.
    """
    try:
        described = orjson.loads((folder / ENCODER_FILE).read_bytes())
        if (found := described.get("kind", BI_ENCODER)) != kind:
            raise CommandError(f"{folder} is a {found}; a {kind} is needed")
        encoder_id, dim = str(described["encoder_id"]), int(described["dim"])
        name = str(described.get("name") or folder.name)
        prompts = {key: str(described["prompts"][key]) for key in ("query", "item")}
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise CommandError(f"{folder / ENCODER_FILE} cannot be read: {exc}") from exc
    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        session = onnx_run.open_session(str(folder / MODEL_FILE))
    except Exception as exc:  # both libraries raise what is no more than an Exception
        raise CommandError(f"{folder} cannot be read: {exc}") from exc
    return BundleModel(name, encoder_id, dim, prompts, tokenizer, session)
