import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from encoder_service.bundle import REQUIRED_FILES, load_bundle
from encoder_service.encoder import Encoder, load_encoder
from encoder_service.layout import Layout
from tests.encoder_service.cross_encoder import write_cross_encoder
from training.bundle_files import write_bundle

Order = Callable[[list[str]], list[str]]


@pytest.fixture(scope="session")
def encoder(minilm_bundle: Path) -> Encoder:
    """Loaded once; a lone text has every core, as the shipped layout may choose here or not."""
    return load_encoder(load_bundle(minilm_bundle), Layout.LATENCY)


@pytest.fixture(scope="session")
def cross_encoder(minilm_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound cross-encoder bundle; read only."""
    tokenizer = (minilm_bundle / "tokenizer.json").read_bytes()
    return write_cross_encoder(tmp_path_factory.mktemp("bundles") / "cross", tokenizer)


@pytest.fixture
def cross_encoder_copy(cross_encoder: Path, tmp_path: Path) -> Path:
    """One that a test may damage."""
    return Path(shutil.copytree(cross_encoder, tmp_path / "cross"))


@pytest.fixture
def bundle_copy(minilm_bundle: Path, tmp_path: Path) -> Path:
    """A bundle that a test may damage."""
    return Path(shutil.copytree(minilm_bundle, tmp_path / "bundle"))


@pytest.fixture
def reseal(bundle_copy: Path) -> Callable[[], None]:
    """Records the copy's files as they are now, as if the bundle had been exported so."""

    def seal() -> None:
        document = json.loads((bundle_copy / "encoder.json").read_text())
        given = document.keys() - {"format_version", "encoder_id", "files"}
        files = {name: (bundle_copy / name).read_bytes() for name in REQUIRED_FILES}
        write_bundle(bundle_copy, files, {key: document[key] for key in given})

    return seal


@pytest.fixture
def record_vectors_of(bundle_copy: Path, reseal: Callable[[], None]) -> Callable[[Order], Path]:
    """Makes a sound bundle whose recorded vectors stand in another order than its texts."""

    def record(order: Order) -> Path:
        path = bundle_copy / "reference.json"
        document = json.loads(path.read_text())
        entries = document["references"]
        vectors = order([entry["vector"] for entry in entries])
        for entry, vector in zip(entries, vectors, strict=True):
            entry["vector"] = vector
        path.write_text(json.dumps(document))
        reseal()
        return bundle_copy

    return record


@pytest.fixture
def noisy_bundle(record_vectors_of: Callable[[Order], Path]) -> Path:
    """A sound bundle whose recorded vectors belong to other texts."""
    return record_vectors_of(lambda vectors: [*vectors[1:], vectors[0]])


@pytest.fixture
def partly_noisy_bundle(record_vectors_of: Callable[[Order], Path]) -> Path:
    """One whose recorded vector belongs to another text once, and else to its own."""
    return record_vectors_of(lambda vectors: [vectors[1], *vectors[1:]])
