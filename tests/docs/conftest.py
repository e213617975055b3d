"""An installation of its own for the documents: what they show changes it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.conftest import built_home, sample_file  # noqa: F401
from tests.system.deployment import Deployment, copy_home

DEMO_HOME = Path(".vitrine") / "demo"


@pytest.fixture(scope="module")
def demo_folder(
    built_home: Path,  # noqa: F811
    minilm_bundle: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Path]:
    """A folder in which things are as in the root of the repository while the demo is up."""
    folder = tmp_path_factory.mktemp("demo")
    home = copy_home(built_home, folder / DEMO_HOME)
    (home / "sample").mkdir()
    (home / "sample" / "minilm-int8").symlink_to(minilm_bundle)
    binaries = folder / ".venv" / "bin"
    binaries.mkdir(parents=True)
    ours = Path(sys.executable).parent
    (binaries / "activate").write_text(f'export PATH="{ours}:$PATH"\n')
    running = Deployment(home)
    running.up()
    try:
        yield folder
    finally:
        running.down()
