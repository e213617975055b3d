"""Write an encoder bundle: a folder that appears whole or not at all."""

import base64
import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from rpc.files import replace_file, replace_folder, sync_folder
from rpc.terminal import CommandError

FORMAT_VERSION = 1
BI_ENCODER = "bi_encoder"
CROSS_ENCODER = "cross_encoder"
ENCODER_FILE = "encoder.json"
MODEL_FILE = "model.onnx"
TOKENIZER_FILE = "tokenizer.json"
REFERENCE_FILE = "reference.json"
_ID_CHARS = 24
_IDENTITY_FIELDS = (
    "dim", "item_template", "max_tokens", "normalize", "pooling", "prompts", "quantization",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Content:
    """What a bundle is written from: its files, and what encoder.json says of them.

    `item_content` is that of the bundle to embed items with, where that is another.
    """

    files: Mapping[str, bytes]
    description: dict[str, Any]
    item_content: "Content | None" = None


def write_bundle(
    out: Path, files: Mapping[str, bytes], description: Mapping[str, Any]
) -> dict[str, Any]:
    """Write a bundle beside `out`, then move it there in one step; return its encoder.json.

    Args:
        out: the bundle's folder; a bundle already there is replaced.
        files: content of model.onnx, tokenizer.json and reference.json.
        description: every field of encoder.json but format_version, encoder_id and files.

    Raises:
        CommandError: `out` holds something that is not a bundle.
    """
    require_replaceable(out)
    checksums = checksums_of(files)
    encoder = {
        "format_version": FORMAT_VERSION,
        "encoder_id": encoder_id(description, checksums),
        **description,
        "files": checksums,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir()
        for name, content in files.items():
            _write(aside / name, content)
        _write(aside / ENCODER_FILE, orjson.dumps(encoder, option=orjson.OPT_INDENT_2))
        sync_folder(aside)
        replace_folder(aside, out, out.with_name(f".{out.name}.{os.getpid()}.old"))
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return encoder


def read_description(folder: Path) -> dict[str, Any]:
    """Return a bundle's encoder.json.

    Raises:
        CommandError: it is missing or cannot be understood.
    """
    path = folder / ENCODER_FILE
    try:
        document = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as exc:
        raise CommandError(f"{path} cannot be read: {exc}") from exc
    if not isinstance(document, dict):
        raise CommandError(f"{path} cannot be read: it is no JSON object")
    return document


def amend(folder: Path, changes: Mapping[str, Any]) -> None:
    """Replace fields of a bundle's encoder.json that no vector follows from; its id stays.

    Raises:
        CommandError: encoder.json cannot be understood.
    """
    assert not changes.keys() & {*_IDENTITY_FIELDS, "encoder_id", "files", "format_version", "kind"}
    document = read_description(folder) | dict(changes)
    replace_file(folder / ENCODER_FILE, orjson.dumps(document, option=orjson.OPT_INDENT_2))


def checksums_of(files: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """Return the size and the SHA-256 of each file, as encoder.json has them."""
    return {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in files.items()
    }


def encoder_id(description: Mapping[str, Any], checksums: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the hash over everything that changes a vector.

    It is the first 24 hex digits of the SHA-256 of this JSON, keys sorted, no spaces: the fields
    dim, item_template, max_tokens, normalize, pooling, prompts and quantization of encoder.json,
    "kind" when that is not "bi_encoder", and "model" and "tokenizer", the SHA-256 of those files.
    """
    identity = {field: description[field] for field in _IDENTITY_FIELDS}
    if (kind := description.get("kind", BI_ENCODER)) != BI_ENCODER:
        identity["kind"] = kind
    identity["model"] = checksums[MODEL_FILE]["sha256"]
    identity["tokenizer"] = checksums[TOKENIZER_FILE]["sha256"]
    canonical = orjson.dumps(identity, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(canonical).hexdigest()[:_ID_CHARS]


def reference_json(texts: Sequence[str], vectors: NDArray[np.float32]) -> bytes:
    """Return reference.json: texts (without prompt) and their FP32 vectors, base64 of float32."""
    entries = [
        {"text": text, "vector": base64.b64encode(row.astype("<f4").tobytes()).decode()}
        for text, row in zip(texts, vectors, strict=True)
    ]
    return orjson.dumps({"format_version": FORMAT_VERSION, "references": entries})


def pair_reference_json(pairs: Sequence[tuple[str, str]], scores: NDArray[np.float32]) -> bytes:
    """Return reference.json of a cross-encoder: pairs and their FP32 scores, shape (n, 1)."""
    entries = [
        {"query": query, "text": text, "score": float(score)}
        for (query, text), score in zip(pairs, scores.reshape(-1), strict=True)
    ]
    return orjson.dumps({"format_version": FORMAT_VERSION, "references": entries})


def require_replaceable(out: Path) -> None:
    """Refuse to write over anything that is not a bundle.

    Raises:
        CommandError: it is a file, or a folder with other content.
    """
    if out.exists() and not out.is_dir():
        raise CommandError(f"{out} is a file; give a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / ENCODER_FILE).is_file():
        raise CommandError(f"{out} holds other files; give a new or empty folder")


def _write(path: Path, content: bytes) -> None:
    """Write a file durably; a full disk is an OSError that names the file."""
    try:
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as exc:
        raise OSError(exc.errno, exc.strerror, str(path)) from exc
