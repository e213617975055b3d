"""One real installation for all tests of the session, built and started by the command line."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.deployment import (
    NUM_ITEMS,
    NUM_SHARDS,
    NUM_TWINS,
    Deployment,
    add_copy_of_generation,
    copy_home,
    read_items,
    write_items,
)
from tests.system.processes import run_module, succeed, vitrine


@pytest.fixture(scope="session")
def sample_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sample catalogue of 1,500 items, 100 of which are twins of others but for their ids."""
    folder = tmp_path_factory.getbasetemp() / "sample"
    file = folder / "with-twins.jsonl.gz"
    if not file.exists():
        number = NUM_ITEMS - NUM_TWINS
        succeed(run_module("training.sample_catalog", "--out", folder, "--items", number))
        items = read_items(folder / "items.jsonl.gz")
        twins = [{**item, "item_id": f"{item['item_id']}-twin"} for item in items[:NUM_TWINS]]
        write_items(file, items + twins)
    return file


@pytest.fixture(scope="session")
def sample_items(sample_file: Path) -> list[dict[str, Any]]:
    """The records of the sample catalogue."""
    return read_items(sample_file)


@pytest.fixture(scope="session")
def built_home(
    sample_file: Path, minilm_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A home with generation 1 promoted: read only, copy it to change it.

    Built once a session, whichever of the folders of tests that share this fixture comes first.
    """
    home = tmp_path_factory.getbasetemp() / "built-home"
    done = home.with_name("built-home-done")
    if not done.exists():
        options = ["--bundle", minilm_bundle, "--home", home, "--shards", NUM_SHARDS, "--promote"]
        succeed(vitrine("build", "--items", sample_file, *options, timeout_s=240))
        done.touch()
    return home


@pytest.fixture(scope="session")
def deployment(built_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A running installation: search it, do not hurt it."""
    running = Deployment(copy_home(built_home, tmp_path_factory.mktemp("deployment") / "home"))
    running.up()
    try:
        yield running
    finally:
        running.down()


@pytest.fixture(scope="session")
def movable(built_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """A running installation with generations 1, 2 and 3 of the same items, to move between."""
    running = Deployment(copy_home(built_home, tmp_path_factory.mktemp("movable") / "home"))
    for copy in (2, 3):
        add_copy_of_generation(running.home, 1, copy)
    running.up()
    try:
        yield running
    finally:
        running.down()
