"""The commands of docs/quickstart.md on the file that it shows, run as they stand."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, blocks_of, commands_of
from tests.system.processes import vitrine

QUICKSTART = DOCS / "quickstart.md"
# Of sections that need what no test may rely on: a model hub, a database at an address, big files.
LEFT_OUT = ("bundle export", "fashion", ".vitrine/demo")


def commands() -> list[str]:
    """Return the commands on the small file, in order, up to those with another catalogue."""
    found = [
        command
        for block in blocks_of(QUICKSTART)
        if block.language == "sh"
        for command in commands_of(block)
    ]
    end = next(place for place, command in enumerate(found) if "VITRINE_CATALOG" in command)
    return [
        command
        for command in found[:end]
        if command.startswith("vitrine ") and not any(part in command for part in LEFT_OUT)
    ]


@pytest.fixture
def folder(tmp_path: Path, minilm_bundle: Path) -> Iterator[Path]:
    """A folder with the bundle and the file that the page speaks of."""
    (tmp_path / "minilm-int8").symlink_to(minilm_bundle)
    (shoes,) = [block.text for block in blocks_of(QUICKSTART) if block.language == "csv"]
    (tmp_path / "shoes.csv").write_text(shoes)
    try:
        yield tmp_path
    finally:
        vitrine("down", "--home", tmp_path / ".vitrine")


def test_the_commands_on_the_small_file_work_as_shown(folder):
    said = {}
    for command in commands():
        # The page's port may be taken here.
        words = shlex.split(command.replace("\\\n", " "))
        words += ["--port", "0"] if words[1] == "up" else []
        done = subprocess.run(
            [sys.executable, "-m", "cli", *words[1:]],
            cwd=folder, env=environment(), capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        said[command] = done.stdout
    output = "".join(said.values())
    assert len(said) > 12
    assert "searches now see generation 2 (before: 1)" in output
    assert "searches now see generation 1 (before: 2)" in output
    filtered = next(out for command, out in said.items() if "price < 200" in command)
    assert "Leather ankle boot" in filtered
    assert "Waterproof hiking boot" not in filtered


def environment() -> dict[str, str]:
    """Return the environment without Vitrine's variables, for the page relies on the defaults."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VITRINE_")}
    return kept | {"PYTHONPATH": str(DOCS.parent)}
