"""An installation that tests may hurt, and that is whole again before the next one."""

from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from encoder_service.bundle import encoder_id
from tests.faults.cluster import Cluster
from tests.gateway.conftest import postgres_server  # noqa: F401
from tests.system.conftest import built_home, sample_file, sample_items  # noqa: F401
from tests.system.deployment import copy_home


@pytest.fixture(scope="session")
def standing_cluster(
    built_home: Path,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:
    """One installation for all tests of this folder."""
    running = Cluster(copy_home(built_home, tmp_path_factory.mktemp("hurt") / "home"))
    running.up()
    try:
        yield running
    finally:
        running.down()


@pytest.fixture
def cluster(standing_cluster: Cluster) -> Iterator[Cluster]:
    """The installation, whole before and after the test."""
    standing_cluster.heal()
    yield standing_cluster
    standing_cluster.heal()


@pytest.fixture(scope="session")
def other_bundle(minilm_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound bundle of the same model that embeds another text of each item."""
    folder = tmp_path_factory.mktemp("bundles") / "other"
    folder.mkdir()
    description = orjson.loads((minilm_bundle / "encoder.json").read_bytes())
    description["item_template"] = "{title} by {brand}"
    description["encoder_id"] = encoder_id(description)
    (folder / "encoder.json").write_bytes(orjson.dumps(description))
    for name in description["files"]:
        (folder / name).symlink_to(minilm_bundle / name)
    return folder
