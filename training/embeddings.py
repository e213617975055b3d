"""Embeddings of many texts, kept by encoder and text, so that nothing is embedded twice.

An encoder is a sentence-transformers bi-encoder (folder, id or package) or an encoder bundle. Its
vectors lie in `CACHE/FINGERPRINT/`: `vectors.f32`, a row a text, and `texts.u128`, the hash of
each row's text. Both only grow, a block at a time, so that what was interrupted goes on. A process
has the folder for itself while it embeds; others wait, and find what it has written.
"""

import fcntl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
import xxhash
from numpy.typing import NDArray

from rpc.terminal import progress_bar, warn
from training.bundle_files import BI_ENCODER

Floats = NDArray[np.float32]

BLOCK_TEXTS = 1024
VECTORS_FILE = "vectors.f32"
TEXTS_FILE = "texts.u128"
LOCK_FILE = ".lock"
_HASH_BYTES = 16
_SORTED = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
_NOT_OF_A_MODEL = ("transformers_version", "architectures", "dtype", "torch_dtype")
_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """What makes vectors.

    Attributes:
        name: for people.
        fingerprint: stands for all that changes a vector.
        dim: numbers a vector.
        prompts: what is put before a "query" and an "item".
        encode: from texts to unit float32 rows.
    """

    name: str
    fingerprint: str
    dim: int
    prompts: Mapping[str, str]
    encode: Callable[[Sequence[str]], Floats]


def open_encoder(path_or_id: str, batch: int = 32) -> TextEncoder:
    """Return the encoder of a bundle or of a sentence-transformers model.

    Raises:
        CommandError: there is none.
    """
    folder = Path(path_or_id).expanduser()
    if (folder / "encoder.json").is_file():
        return _bundle_encoder(folder)
    return _torch_encoder(path_or_id, batch)


def embed(encoder: TextEncoder, texts: Sequence[str], cache: Path, what: str) -> Floats:
    """Return unit float32 rows of shape (n, dim); only texts that are new are encoded.

    Args:
        encoder: makes the vectors.
        texts: may hold a text several times.
        cache: folder of all encoders' vectors.
        what: what the progress bar calls it.
    """
    folder = cache / encoder.fingerprint
    folder.mkdir(parents=True, exist_ok=True)
    hashes = [xxhash.xxh3_128_digest(text.encode()) for text in texts]
    with _held(folder):
        rows = _known_rows(folder, encoder.dim)
        new = {h: text for h, text in zip(hashes, texts, strict=True) if h not in rows}
        if new:
            _append(folder, encoder, new, what)
            rows = _known_rows(folder, encoder.dim)
        kept: Floats = np.memmap(folder / VECTORS_FILE, np.float32, "r").reshape(-1, encoder.dim)
        found: Floats = kept[[rows[each] for each in hashes]]
    return found


def embed_as(
    encoder: TextEncoder, kind: Literal["query", "item"], texts: Sequence[str], cache: Path
) -> Floats:
    """Return unit float32 rows of texts with the prompt of their kind before them."""
    prompted = [encoder.prompts[kind] + text for text in texts]
    return embed(encoder, prompted, cache, f"{kind} texts by {encoder.name}")


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Keep other processes out of an encoder's folder; wait for the one that has it."""
    with (folder / LOCK_FILE).open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            warn(f"another process embeds into {folder}; waiting until it has ended")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _append(folder: Path, encoder: TextEncoder, new: dict[bytes, str], what: str) -> None:
    """Encode texts in the order of their length and write them block by block."""
    ordered = sorted(new.items(), key=lambda entry: len(entry[1]))
    with (
        progress_bar(what, len(ordered)) as advance,
        (folder / VECTORS_FILE).open("ab") as vectors,
        (folder / TEXTS_FILE).open("ab") as names,
    ):
        for start in range(0, len(ordered), BLOCK_TEXTS):
            block = ordered[start : start + BLOCK_TEXTS]
            encoded = encoder.encode([text for _, text in block])
            vectors.write(np.ascontiguousarray(encoded, dtype="<f4").tobytes())
            vectors.flush()
            # After the vectors: a name without its vector is never read.
            names.write(b"".join(name for name, _ in block))
            names.flush()
            advance(len(block))


def _known_rows(folder: Path, dim: int) -> dict[bytes, int]:
    """Return hash -> row of what was written whole; what was written in part is cut off."""
    vectors, names = folder / VECTORS_FILE, folder / TEXTS_FILE
    if not vectors.is_file() or not names.is_file():
        vectors.unlink(missing_ok=True)
        names.unlink(missing_ok=True)
        return {}
    row_bytes = dim * _FLOAT_BYTES
    whole = min(vectors.stat().st_size // row_bytes, names.stat().st_size // _HASH_BYTES)
    for path, size in ((vectors, whole * row_bytes), (names, whole * _HASH_BYTES)):
        if path.stat().st_size != size:
            with path.open("r+b") as file:
                file.truncate(size)
    read = names.read_bytes()
    return {read[row * _HASH_BYTES : (row + 1) * _HASH_BYTES]: row for row in range(whole)}


def _torch_encoder(path_or_id: str, batch: int) -> TextEncoder:
    from training.model_source import find_model
    from training.torch_encoder import load_model, prompts_of, require_prompts_pooled

    source = find_model(path_or_id)
    model: Any = load_model(source)
    require_prompts_pooled(source, model, prompts_of(model))

    def encode(texts: Sequence[str]) -> Floats:
        vectors: Floats = model.encode(
            list(texts),
            prompt="",  # the caller has put it there
            batch_size=batch,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        return vectors.astype(np.float32)

    dim = int(model.get_embedding_dimension())
    fingerprint = f"model-{hash_of(model)}"
    return TextEncoder(source.name, fingerprint, dim, prompts_of(model), encode)


def hash_of(model: Any) -> str:
    """Return a hash over all that a torch model's output follows from, but not where it lies."""
    digest = xxhash.xxh3_128(f"{model.max_seq_length}".encode())
    for part in (*map(_settings_of, model), _tokenizer_settings(model.tokenizer)):
        digest.update(orjson.dumps(part, default=str, option=_SORTED) + b"\n")
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(value.numpy()).data)
    return digest.hexdigest()


def _settings_of(module: Any) -> list[Any]:
    """Return a module's class, its settings, and those of the transformer in it."""
    settings = module.get_config_dict() if hasattr(module, "get_config_dict") else {}
    config = getattr(getattr(module, "model", None), "config", None)
    return [type(module).__name__, settings, _told(config.to_dict()) if config else None]


def _told(config: Any) -> Any:
    """Return a config without what depends on where its model lies and who reads it.

    >>> _told({"_name_or_path": "/tmp/m", "text": {"transformers_version": "5", "layers": 2}})
    {'text': {'layers': 2}}
    """
    if not isinstance(config, dict):
        return config
    kept = (key for key in config if not str(key).startswith("_") and key not in _NOT_OF_A_MODEL)
    return {key: _told(config[key]) for key in kept}


def _tokenizer_settings(tokenizer: Any) -> Any:
    """Return what a tokenizer makes tokens by; the last call's truncation and padding are none."""
    if not hasattr(tokenizer, "backend_tokenizer"):
        return [type(tokenizer).__name__, tokenizer.get_vocab()]
    written = orjson.loads(tokenizer.backend_tokenizer.to_str())
    return {key: value for key, value in written.items() if key not in ("truncation", "padding")}


def _bundle_encoder(folder: Path) -> TextEncoder:
    """Return a bundle's encoder: each text alone at its true length, as the service encodes."""
    from training.bundle_model import open_bundle

    bundle = open_bundle(folder, BI_ENCODER)
    return TextEncoder(
        bundle.name, f"bundle-{bundle.encoder_id}", bundle.dim, bundle.prompts, bundle.run
    )
