"""A command line run in this process, and small programs to start."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import orjson
import pytest

from cli.__main__ import main
from cli.home import Home

# Announces itself, and notes its name when it is asked to stop.
WELL_BEHAVED = """
import json, os, pathlib, signal, sys
name = os.environ["DUMMY_NAME"]
def stop(*_):
    with open(os.environ["DUMMY_NOTES"], "a") as notes:
        notes.write(name + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
announcement = {"role": name, "pid": os.getpid()}
announcement |= {"address": "127.0.0.1:1", "http_address": "127.0.0.1:2"}
file = pathlib.Path(os.environ["DUMMY_ANNOUNCE_FILE"])
aside = file.with_suffix(".new")
aside.write_text(json.dumps(announcement))
aside.replace(file)
while True:
    signal.pause()
"""
STUBBORN = WELL_BEHAVED.replace(
    "signal.signal(signal.SIGTERM, stop)", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
)
FAILING = """
import sys
sys.stderr.write('{"event": "listening"}\\nerror: the bundle is damaged; export it again\\n')
sys.exit(1)
"""
DYING = """
raise ValueError("a bug")
"""


@dataclass
class Ran:
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def document(self):
        return orjson.loads(self.out)


@pytest.fixture
def vitrine(capfd) -> Callable[..., Ran]:
    """Run the command line in this process."""

    def run(*arguments: object) -> Ran:
        status = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as ended:
            status = int(ended.code or 0)
        captured = capfd.readouterr()
        return Ran(status, captured.out, captured.err)

    return run


@pytest.fixture
def home(tmp_path) -> Home:
    return Home.at(tmp_path / "home")


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Modules that can be started by name: well_behaved, stubborn, failing, dying."""
    folder = tmp_path / "programs"
    folder.mkdir()
    sources = {
        "well_behaved": WELL_BEHAVED,
        "stubborn": STUBBORN,
        "failing": FAILING,
        "dying": DYING,
    }
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("DUMMY_NOTES", str(tmp_path / "notes"))
    return folder


def eventually(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Wait until a condition holds."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "waited too long"
        time.sleep(0.02)


def write_generation(home: Home, generation: int, recall: float = 0.995, **changes) -> None:
    """Write a generation's manifest as far as the command reads it."""
    folder = home.generations / f"{generation:06d}"
    folder.mkdir(parents=True)
    manifest = {
        "generation": generation,
        "encoder": {"encoder_id": "ab" * 12},
        "num_shards": 2,
        "items": 10,
        "gate": {"ann_recall_at_10": recall, "required_ann_recall_at_10": 0.99},
        **changes,
    }
    (folder / "manifest.json").write_bytes(orjson.dumps(manifest))
