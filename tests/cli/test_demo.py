"""The demo leaves nothing running, whenever it is asked to stop."""

import signal
import subprocess
import sys

import pytest

from cli.processes import read_state, stop_all
from tests.cli.conftest import eventually

# The demo with small programs in the place of its services; it stays where it is told to. Asked
# again while it stops, it goes on stopping.
DEMO = """
import os, pathlib, signal, sys, time
import cli.demo as demo
from cli.home import Home
from cli.processes import Service, State, announced, start, write_state
from rpc.terminal import errors_as_sentences

signal.signal(signal.SIGHUP, signal.SIG_DFL)
home, ready, stays_at = Home.at(pathlib.Path(sys.argv[1])), pathlib.Path(sys.argv[2]), sys.argv[3]
take_down = demo.take_down

def bring_up(home, options):
    roles = ("encoder", "gateway")
    started = [
        start(Service(role, "well_behaved", "DUMMY_", {"NAME": role}), home) for role in roles
    ]
    write_state(home, State(tuple(started), 1))
    while not all(announced(process, home) for process in started):
        time.sleep(0.02)
    return State(tuple(started), 1)

def stay(place):
    if place == stays_at and not ready.exists():
        ready.touch()
        time.sleep(100)

def stop(home):
    stay("stopping")
    if ready.exists():
        os.kill(os.getpid(), signal.SIGTERM)
    take_down(home)

demo._make_bundle = demo._make_items = lambda home: None
demo._make_generation = lambda home, bundle, items: None
demo._show_where = lambda state, home: None
demo._show_searches = lambda address: stay("searching")
demo.bring_up, demo.take_down = bring_up, stop
with errors_as_sentences():
    demo.run_demo(home, demo.DemoOptions(once=True))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=lambda each: each.name)
@pytest.mark.parametrize("place", ["searching", "stopping"])
def test_a_signal_to_the_demo_stops_what_it_started(home, programs, tmp_path, place, number):
    ready = tmp_path / "ready"
    command = [sys.executable, "-c", DEMO, str(home.path), str(ready), place]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as demo:
        eventually(ready.exists)
        started = read_state(home).processes
        demo.send_signal(number)
        _, said = demo.communicate(timeout=60)
    left = [process for process in started if process.alive]
    stop_all(left)
    assert len(started) == 2
    assert left == []
    assert demo.returncode == 1
    assert said.endswith(b"error: the demo was interrupted; nothing is left running\n")
