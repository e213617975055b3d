"""Processes of a home: started with a log, remembered, recognised, stopped in order."""

import os
import signal
import time
from dataclasses import replace

import psutil
import pytest

from cli.processes import (
    Process,
    Service,
    State,
    announced,
    forget_state,
    is_alive,
    read_state,
    reap,
    start,
    start_time,
    stop_all,
    why_it_ended,
    write_state,
)
from rpc.terminal import CommandError
from tests.cli.conftest import eventually


def service(module: str, role: str = "encoder", shard: int | None = None) -> Service:
    name = role if shard is None else f"{role}-{shard}"
    return Service(role, module, "DUMMY_", {"NAME": name}, shard)


@pytest.fixture
def launch(home, programs):
    """Start services and wait until they have announced themselves; stop what is left."""
    started: list[Process] = []

    def run(module: str, role: str = "encoder", shard: int | None = None, wait: bool = True):
        process = start(service(module, role, shard), home)
        started.append(process)
        if wait:
            eventually(lambda: announced(process, home))
            process = announced(process, home)
        return process

    yield run
    stop_all(started, timeout_s=0.5)


def test_a_process_announces_where_it_listens(launch, home):
    process = launch("well_behaved", "shard", 3)
    assert process.name == "shard-3"
    assert (process.address, process.http_address) == ("127.0.0.1:1", "127.0.0.1:2")
    assert process.alive
    assert process.resident_bytes() > 1_000_000


def test_an_announcement_of_an_earlier_process_is_not_believed(launch, home):
    process = launch("well_behaved")
    assert announced(replace(process, pid=process.pid + 1), home) is None


def test_a_process_outlives_signals_to_our_group(launch):
    process = launch("well_behaved")
    assert os.getpgid(process.pid) != os.getpgid(0)


def test_callers_are_stopped_before_those_they_call(launch, tmp_path):
    started = [
        launch("well_behaved", "encoder"),
        launch("well_behaved", "shard", 0),
        launch("well_behaved", "gateway"),
    ]
    assert stop_all(started) == ()
    assert (tmp_path / "notes").read_text().split() == ["gateway", "shard-0", "encoder"]
    assert not any(process.alive for process in started)


def test_a_process_that_does_not_listen_is_killed_after_the_timeout(launch):
    process = launch("stubborn")
    started_s = time.monotonic()
    assert stop_all([process], timeout_s=0.3) == (process,)
    assert time.monotonic() - started_s >= 0.3
    assert not process.alive


def test_a_process_that_stands_still_is_stopped_too(launch):
    process = launch("well_behaved")
    os.kill(process.pid, signal.SIGSTOP)
    eventually(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
    assert stop_all([process]) == ()
    assert not process.alive


def test_another_process_under_the_same_pid_is_left_alone(launch):
    process = launch("well_behaved")
    stranger = replace(process, started_at=process.started_at - 100)
    assert not stranger.alive
    assert stranger.resident_bytes() == 0
    assert stop_all([stranger]) == ()
    assert process.alive, "no signal reached it"


def test_a_zombie_is_not_alive(launch):
    process = launch("failing", wait=False)
    eventually(lambda: not process.alive)
    assert reap(process) == 1
    assert reap(process) is None


def test_nobody_is_alive_under_a_pid_that_does_not_exist():
    assert not is_alive(2**22 + 1, 0.0)
    assert start_time(2**22 + 1) == 0.0


def test_the_reason_is_the_processs_own_sentence(launch):
    process = launch("failing", wait=False)
    eventually(lambda: not process.alive)
    assert why_it_ended(process) == "the bundle is damaged; export it again"


def test_the_reason_of_a_bug_is_its_last_line(launch):
    process = launch("dying", wait=False)
    eventually(lambda: not process.alive)
    assert why_it_ended(process) == "ValueError: a bug"


def test_the_reason_of_a_killed_process_is_the_signal(launch):
    process = launch("well_behaved")
    os.kill(process.pid, signal.SIGKILL)
    eventually(lambda: not process.alive)
    assert why_it_ended(process, reap(process)) == "it was stopped by SIGKILL"


def test_the_log_before_is_kept(launch, home):
    first = launch("failing", wait=False)
    eventually(lambda: not first.alive)
    launch("well_behaved")
    assert "damaged" in (home.logs / "encoder.log.1").read_text()
    assert (home.logs / "encoder.log").read_text() == ""


def test_state_is_read_back_and_forgotten(launch, home):
    state = State((launch("well_behaved", "gateway"),), generation=3)
    write_state(home, state)
    assert read_state(home) == state
    assert read_state(home).gateway() == state.processes[0]
    forget_state(home)
    assert read_state(home) == State()
    assert list(home.run.iterdir()) == []


def test_a_gateway_that_ended_is_no_gateway(launch, home):
    process = launch("well_behaved", "gateway")
    write_state(home, State((process,), 1))
    stop_all([process])
    assert read_state(home).gateway() is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"processes": [{"pid": 1}]}'])
def test_a_damaged_state_is_a_sentence(home, content):
    home.run.mkdir(parents=True)
    (home.run / "processes.json").write_text(content)
    with pytest.raises(CommandError, match=r"cannot understand .*processes\.json"):
        read_state(home)
