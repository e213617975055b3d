"""Encoder bundles: load one, and refuse one that is damaged or does not fit together.

`python -m encoder_service.bundle inspect|verify DIR` prints JSON; verify also runs the reference
texts, or pairs, and compares what they get with what was recorded.
"""

import base64
import binascii
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import orjson
import typer
from numpy.typing import NDArray

from rpc.errors import DataLoss, FailedPrecondition
from rpc.files import sha256_of
from rpc.terminal import errors_as_sentences, print_result, progress_bar

FORMAT_VERSION = 1
ENCODER_FILE = "encoder.json"
MODEL_FILE = "model.onnx"
TOKENIZER_FILE = "tokenizer.json"
REFERENCE_FILE = "reference.json"
REQUIRED_FILES = (MODEL_FILE, TOKENIZER_FILE, REFERENCE_FILE)
BI_ENCODER = "bi_encoder"
CROSS_ENCODER = "cross_encoder"
KINDS = (BI_ENCODER, CROSS_ENCODER)
_ID_CHARS = 24
_IDENTITY_FIELDS = (
    "dim", "item_template", "max_tokens", "normalize", "pooling", "prompts", "quantization",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Prompts:
    """What is put before each text of a kind."""

    query: str
    item: str


@dataclass(frozen=True, slots=True)
class EncoderBundle:
    """A bundle whose files are what encoder.json says they are."""

    folder: Path
    encoder_id: str
    kind: str
    name: str
    dim: int
    max_tokens: int
    prompts: Prompts
    item_template: str
    quantization: str
    matryoshka_dims: tuple[int, ...]
    compatible_query_encoders: tuple[dict[str, Any], ...]
    verified_on: tuple[frozenset[str], ...]

    def is_verified_on(self, cpu_features: Sequence[str]) -> bool:
        """Tell whether it was measured on a processor with these features and no others."""
        return frozenset(cpu_features) in self.verified_on

    @property
    def model_path(self) -> Path:
        """Return where the graph is."""
        return self.folder / MODEL_FILE

    @property
    def tokenizer_path(self) -> Path:
        """Return where the tokenizer is."""
        return self.folder / TOKENIZER_FILE


@dataclass(frozen=True, slots=True)
class References:
    """Texts with the vectors that full precision gives them, shape (n, dim)."""

    texts: tuple[str, ...]
    vectors: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PairReferences:
    """Pairs of query and text with the scores that full precision gives them, shape (n,)."""

    pairs: tuple[tuple[str, str], ...]
    scores: NDArray[np.float32]


def load_bundle(folder: Path) -> EncoderBundle:
    """Return a bundle once every file has the size and checksum that encoder.json records.

    Raises:
        DataLoss: a file is missing or differs, or encoder.json cannot be understood.
        FailedPrecondition: the bundle has another format version.
    """
    document = read_description(folder)
    try:
        bundle = _bundle_of(folder, document)
        checksums = {name: document["files"][name] for name in REQUIRED_FILES}
        recorded = {
            name: (int(sum_["bytes"]), str(sum_["sha256"])) for name, sum_ in checksums.items()
        }
        expected_id = encoder_id(document)
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        raise DataLoss(
            str(folder / ENCODER_FILE), f"field missing or of the wrong type: {exc}"
        ) from exc
    for name, (size, sha256) in recorded.items():
        _verify_file(folder / name, size, sha256)
    if bundle.encoder_id != expected_id:
        raise DataLoss(
            str(folder / ENCODER_FILE),
            f"encoder_id is {bundle.encoder_id}, its content says {expected_id}: it was edited; "
            "export the bundle again",
        )
    return bundle


def require_kind(bundle: EncoderBundle, kind: str) -> None:
    """Refuse a bundle of another kind.

    Raises:
        FailedPrecondition: it is not what is needed.
    """
    if bundle.kind != kind:
        raise FailedPrecondition(
            "BUNDLE_KIND",
            f"{bundle.folder}: holds a {bundle.kind}; a {kind} is needed here",
            expected=kind,
            got=bundle.kind,
        )


def read_description(folder: Path) -> dict[str, Any]:
    """Return encoder.json as it is.

    Raises:
        DataLoss: it is missing or not a JSON object.
        FailedPrecondition: it has another format version.
    """
    path = folder / ENCODER_FILE
    try:
        document = orjson.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise DataLoss(str(path), "is missing: this is no encoder bundle") from exc
    except orjson.JSONDecodeError as exc:
        raise DataLoss(str(path), f"is not valid JSON: {exc}") from exc
    if not isinstance(document, dict):
        raise DataLoss(str(path), "is not a JSON object")
    if (got := document.get("format_version")) != FORMAT_VERSION:
        raise FailedPrecondition(
            "BUNDLE_FORMAT_VERSION",
            f"{path}: format_version is {got}; this version reads {FORMAT_VERSION}: export the "
            "bundle again",
            expected=FORMAT_VERSION,
            got=got,
        )
    return document


def read_references(bundle: EncoderBundle) -> References:
    """Return the reference texts and vectors.

    Raises:
        DataLoss: reference.json cannot be understood.
    """
    path = bundle.folder / REFERENCE_FILE
    try:
        entries = orjson.loads(path.read_bytes())["references"]
        packed = b"".join(base64.b64decode(entry["vector"], validate=True) for entry in entries)
        texts = tuple(str(entry["text"]) for entry in entries)
        vectors = np.frombuffer(packed, dtype="<f4").reshape(len(texts), bundle.dim)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, binascii.Error) as exc:
        raise DataLoss(str(path), f"cannot be understood: {exc}") from exc
    return References(texts, vectors)


def read_pair_references(bundle: EncoderBundle) -> PairReferences:
    """Return the reference pairs of a cross-encoder and their scores.

    Raises:
        DataLoss: reference.json cannot be understood.
    """
    path = bundle.folder / REFERENCE_FILE
    try:
        entries = orjson.loads(path.read_bytes())["references"]
        pairs = tuple((str(entry["query"]), str(entry["text"])) for entry in entries)
        scores = np.array([float(entry["score"]) for entry in entries], dtype=np.float32)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as exc:
        raise DataLoss(str(path), f"cannot be understood: {exc}") from exc
    return PairReferences(pairs, scores)


def encoder_id(document: dict[str, Any]) -> str:
    """Return the hash over everything that changes a vector, as encoder.json should have it.

    It is the first 24 hex digits of the SHA-256 of this JSON, keys sorted, no spaces: the fields
    dim, item_template, max_tokens, normalize, pooling, prompts and quantization of encoder.json,
    "kind" when that is not "bi_encoder", and "model" and "tokenizer", the SHA-256 of those files.
    """
    identity = {field: document[field] for field in _IDENTITY_FIELDS}
    if (kind := _kind_of(document)) != BI_ENCODER:
        identity["kind"] = kind
    identity["model"] = document["files"][MODEL_FILE]["sha256"]
    identity["tokenizer"] = document["files"][TOKENIZER_FILE]["sha256"]
    canonical = orjson.dumps(identity, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(canonical).hexdigest()[:_ID_CHARS]


def _bundle_of(folder: Path, document: dict[str, Any]) -> EncoderBundle:
    return EncoderBundle(
        folder=folder,
        encoder_id=str(document["encoder_id"]),
        kind=_kind_of(document),
        name=str(document["name"]),
        dim=int(document["dim"]),
        max_tokens=int(document["max_tokens"]),
        prompts=Prompts(str(document["prompts"]["query"]), str(document["prompts"]["item"])),
        item_template=str(document["item_template"]),
        quantization=str(document["quantization"]),
        matryoshka_dims=tuple(int(dim) for dim in document["matryoshka_dims"]),
        compatible_query_encoders=tuple(document["compatible_query_encoders"]),
        verified_on=tuple(
            frozenset(map(str, entry["cpu_features"])) for entry in document.get("verified_on", ())
        ),
    )


def _kind_of(document: dict[str, Any]) -> str:
    """Return what a bundle holds; one that does not say is a bi-encoder."""
    kind = document.get("kind", BI_ENCODER)
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; known are {', '.join(KINDS)}")
    return str(kind)


def _verify_file(path: Path, size: int, sha256: str) -> None:
    """Refuse a file that is not what was written."""
    try:
        if (got := path.stat().st_size) != size:
            raise DataLoss(str(path), f"has {got} bytes, {size} are recorded")
        digest = sha256_of(path)
    except FileNotFoundError as exc:
        raise DataLoss(str(path), "is missing; export the bundle again") from exc
    if digest != sha256:
        raise DataLoss(str(path), "its SHA-256 differs from the recorded one: it was altered")


commands = typer.Typer(help="Look at encoder bundles.", no_args_is_help=True)


@commands.command()
def inspect(folder: Annotated[Path, typer.Argument(help="A bundle folder.")]) -> None:
    """Print what a bundle says about itself."""
    with errors_as_sentences():
        print_result(read_description(folder))


@commands.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="A bundle folder.")],
    cosine_min: Annotated[
        float, typer.Option(help="Least mean cosine to the recorded vectors.", min=-1.0, max=1.0)
    ] = 0.97,
    cosine_each_min: Annotated[
        float, typer.Option(help="Least cosine of any one of them.", min=-1.0, max=1.0)
    ] = 0.9,
    spearman_min: Annotated[
        float,
        typer.Option(
            help="Least rank correlation with a cross-encoder's scores.", min=-1.0, max=1.0
        ),
    ] = 0.9,
    record: Annotated[
        bool, typer.Option("--record", help="Add this processor to verified_on of encoder.json.")
    ] = False,
) -> None:
    """Check a bundle's files, and what it makes on this machine's processor."""
    # This module is needed by what needs these: importing them first would be a circle.
    from encoder_service.settings import ReferenceSettings
    from encoder_service.verification import record_verified, verify_bundle

    limits = ReferenceSettings(
        reference_cosine_min=cosine_min,
        reference_cosine_each_min=cosine_each_min,
        reranker_spearman_min=spearman_min,
        serve_below_reference_cosine=False,
    )
    with errors_as_sentences():
        with progress_bar("checking files", total=None):
            bundle = load_bundle(folder)
        with progress_bar("running references", total=None):
            figures = verify_bundle(bundle, limits)
        if record:
            figures["recorded"] = record_verified(bundle, figures)
        print_result(figures)


if __name__ == "__main__":
    commands()
