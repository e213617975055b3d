"""Stages: their result is the last line of stdout; nothing of them outlives an interruption."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cli.home import only_one
from cli.processes import is_alive, start_time
from cli.signals import stop_signals_interrupt
from cli.stages import StageFailed, run_stage
from rpc.terminal import CommandError
from tests.cli.conftest import eventually


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Return a function that makes a module of a source text."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def write(source: str) -> str:
        (tmp_path / "a_stage.py").write_text(source)
        return "a_stage"

    return write


def test_the_last_line_is_the_result_and_arguments_arrive(stage):
    module = stage("import sys, json; print('noise'); print(json.dumps({'args': sys.argv[1:]}))")
    result = run_stage(module, ["--shards", "4"])
    assert result.values == {"args": ["--shards", "4"]}
    assert result.seconds > 0


def test_a_secret_arrives_without_standing_on_the_command_line(stage):
    source = "import json, os, sys; print(json.dumps([sys.argv[1:], os.environ['A_SECRET']]))"
    module = stage(source.replace("json.dumps(", "json.dumps(dict(seen=").replace("]))", "])))"))
    result = run_stage(module, [], secrets={"A_SECRET": "password"})
    assert result.values == {"seen": [[], "password"]}


def test_what_it_says_on_stderr_is_shown(stage, capfd):
    run_stage(stage("import sys; sys.stderr.write('progress'); print('{}')"), [])
    assert capfd.readouterr().err == "progress"


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("import sys; sys.exit(1)", "stopped for the reason above"),
        ("import sys; sys.exit(3)", "ended with status 3"),
        ("import os; os.kill(os.getpid(), 9)", "out of memory"),
        ("import os; os.kill(os.getpid(), 15)", "SIGTERM"),
    ],
)
def test_a_failed_stage_is_told(stage, source, sentence):
    with pytest.raises(StageFailed, match=sentence):
        run_stage(stage(source), [])


@pytest.mark.parametrize("source", ["", "print('done')", "print('[1]')"])
def test_a_stage_without_a_result_is_told(stage, source):
    with pytest.raises(CommandError, match="a_stage gave"):
        run_stage(stage(source), [])


def with_a_child(pids: Path) -> str:
    """Return the source of a stage that starts a child, notes both pids, and stays."""
    return (
        "import os, pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])\n"
        f"aside = pathlib.Path({str(pids)!r} + '.new')\n"
        "aside.write_text(f'{os.getpid()} {child.pid}')\n"
        f"aside.rename({str(pids)!r})\n"
        "time.sleep(100)\n"
    )


def noted(pids: Path) -> list[tuple[int, float]]:
    """Wait for the pids that a stage notes; return each with its start time."""
    eventually(pids.exists)
    return [(pid, start_time(pid)) for pid in map(int, pids.read_text().split())]


def test_an_interruption_stops_the_stage_and_its_children(stage, tmp_path):
    pids = tmp_path / "pids"
    seen: list[tuple[int, float]] = []

    def interrupt_us() -> None:
        seen.extend(noted(pids))
        os.kill(os.getpid(), signal.SIGTERM)

    watcher = threading.Thread(target=interrupt_us)
    watcher.start()
    with pytest.raises(KeyboardInterrupt), stop_signals_interrupt():
        run_stage(stage(with_a_child(pids)), [])
    watcher.join()
    assert len(seen) == 2
    eventually(lambda: not any(is_alive(pid, started_at) for pid, started_at in seen))


# `vitrine eval`, with another stage in the place of its own. Whoever runs the tests may ignore
# SIGHUP, and a child begins with that.
EVAL = """
import signal
import cli.evaluation
from cli.__main__ import main
from cli.stages import run_stage
signal.signal(signal.SIGHUP, signal.SIG_DFL)
cli.evaluation.run_stage = lambda module, arguments: run_stage("a_stage", arguments)
main(["eval", "--data", "data", "--system", "bm25", "--out", "out"])
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda each: each.name)
def test_a_signal_to_a_command_of_one_stage_stops_that_too(stage, tmp_path, number):
    pids = tmp_path / "pids"
    stage(with_a_child(pids))
    with subprocess.Popen([sys.executable, "-c", EVAL], stderr=subprocess.PIPE) as command:
        seen = noted(pids)
        command.send_signal(number)
        _, said = command.communicate(timeout=30)
    assert said == b"error: interrupted; run the same command again to go on\n"
    assert command.returncode == 1
    eventually(lambda: not any(is_alive(pid, started_at) for pid, started_at in seen))


def test_signals_mean_what_they_meant_before_once_the_body_has_ended():
    before = signal.getsignal(signal.SIGTERM)
    with stop_signals_interrupt():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_under_nohup_a_hangup_interrupts_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals_interrupt():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_lock_is_held_once_and_given_back(tmp_path):
    lock = tmp_path / "a" / "lock"
    with (
        only_one(lock, "taken"),
        pytest.raises(CommandError, match="taken"),
        only_one(lock, "taken"),
    ):
        pass
    with only_one(lock, "taken"):
        pass


def test_a_lock_lasts_as_long_as_a_child_that_inherited_it(tmp_path):
    lock = tmp_path / "lock"
    with only_one(lock, "taken") as descriptor:
        child = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[descriptor]
        )
    with pytest.raises(CommandError, match="taken"), only_one(lock, "taken"):
        pass
    child.communicate(b"\n")
    with only_one(lock, "taken"):
        pass
