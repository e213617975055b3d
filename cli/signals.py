"""Every polite request to stop means the same: KeyboardInterrupt, so that children are stopped."""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_Handler = Callable[[int, FrameType | None], None] | signal.Handlers


@contextmanager
def stop_signals_interrupt() -> Iterator[None]:
    """Let SIGINT, SIGTERM and SIGHUP end the body with KeyboardInterrupt.

    SIGINT is among them because a shell script's background jobs are started with it ignored.
    SIGHUP stays ignored where it is: that is what nohup is for.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    with _handled(interrupt, [n for n in STOP_SIGNALS if not (nohup and n == signal.SIGHUP)]):
        yield


@contextmanager
def stop_signals_ignored() -> Iterator[None]:
    """Let the body end whatever is asked: it is what stops the children."""
    with _handled(signal.SIG_IGN, STOP_SIGNALS):
        yield


@contextmanager
def _handled(handler: _Handler, numbers: Sequence[signal.Signals]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)
