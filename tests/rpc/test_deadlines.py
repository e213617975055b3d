"""Deadlines: the sooner of caller's and default, shared out, never negative."""

import pytest

from rpc import deadlines
from rpc.deadlines import Deadline


class Call:
    def __init__(self, remaining_s: float | None) -> None:
        self._remaining_s = remaining_s

    def time_remaining(self) -> float | None:
        return self._remaining_s


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands at 100 s until it is moved."""

    class Clock:
        now_s = 100.0

    monkeypatch.setattr(deadlines.time, "monotonic", lambda: Clock.now_s)
    return Clock


@pytest.mark.parametrize(("caller_s", "at_s"), [(None, 105.0), (2.0, 102.0), (60.0, 105.0)])
def test_the_sooner_of_caller_and_default_counts(clock, caller_s, at_s):
    assert Deadline.of_call(Call(caller_s), default_s=5.0).at_s == at_s


def test_a_stage_gets_its_share_of_what_is_left(clock):
    deadline = Deadline.after(10.0)
    clock.now_s = 104.0
    assert deadline.remaining_s() == 6.0
    assert deadline.share_s(0.5) == 3.0
    assert deadline.share_s(0.5, most_s=1.0) == 1.0


def test_a_passed_deadline_leaves_nothing(clock):
    deadline = Deadline.after(1.0)
    assert not deadline.passed
    clock.now_s = 101.0
    assert deadline.passed
    clock.now_s = 150.0
    assert deadline.remaining_s() == 0.0
    assert deadline.share_s(0.5) == 0.0
