import math

import pytest

from encoder_service import layout


class Machine:
    """A clock that runs advance: a text of n tokens takes what `narrow` or `wide` says."""

    def __init__(self, monkeypatch, wide_share):
        self.now_s = 0.0
        self.wide_share = wide_share
        self.wide_runs = []
        monkeypatch.setattr(layout.time, "perf_counter", lambda: self.now_s)

    def narrow(self, tokens):
        self.now_s += tokens

    def wide(self, tokens):
        self.wide_runs.append(tokens)
        self.now_s += tokens * self.wide_share(tokens)


@pytest.mark.parametrize(
    ("wide_share", "expected"),
    [
        (lambda _: 0.6, 0.0),
        (lambda _: 0.95, math.inf),
        (lambda tokens: 0.6 if tokens >= 16 else 1.1, 16.0),
        (lambda tokens: 0.6 if tokens == 8 else 1.1, math.inf),
    ],
)
def test_every_core_is_for_the_lengths_at_which_it_is_faster(monkeypatch, wide_share, expected):
    machine = Machine(monkeypatch, wide_share)
    assert layout.spread_from(machine.narrow, machine.wide, 256) == expected


def test_no_text_is_longer_than_the_model_takes(monkeypatch):
    machine = Machine(monkeypatch, lambda _: 0.6)
    assert layout.spread_from(machine.narrow, machine.wide, 20) == 0.0
    assert max(machine.wide_runs) == 16


def test_a_slow_first_run_does_not_decide(monkeypatch):
    machine = Machine(monkeypatch, lambda _: 100.0 if not machine.wide_runs[1:] else 0.6)
    assert layout.spread_from(machine.narrow, machine.wide, 8) == 0.0
