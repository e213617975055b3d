"""Callers that search without pause, and what became of every one of their searches."""

import itertools
import threading
import time
from collections import Counter
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import grpc

from protos.vitrine.v1 import search_pb2
from tests.system.polling import eventually
from tests.system.wire import Stubs

TEXTS = [f"{color} {thing}" for color in ("red", "blue") for thing in ("hat", "coat", "shoes")]


@dataclass(frozen=True)
class Outcome:
    """One search: when it was, and how it ended."""

    started_s: float
    ended_s: float
    code: str
    message: str = ""
    response: Any = None


class Load:
    """Callers in threads; leave the context to stop them."""

    def __init__(self, address: str, callers: int = 8, **fields: Any) -> None:
        """Make callers.

        Args:
            address: whom they call.
            callers: how many at the same time, each over a connection of its own.
            fields: of each search, beside its text.
        """
        self.outcomes: list[Outcome] = []
        self._address = address
        self._fields = {"fields": ["none"], **fields}
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._call_on, args=(number,)) for number in range(callers)
        ]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        self.wait_for_more(len(self._threads) * 3)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=30)
        assert not any(thread.is_alive() for thread in self._threads), "a search hangs"

    def wait_for_more(self, number: int) -> None:
        """Wait until so many more searches have ended."""
        wanted = len(self.outcomes) + number
        eventually(lambda: len(self.outcomes) >= wanted, f"{number} more searches end")

    @property
    def codes(self) -> Counter[str]:
        """How many searches ended with each status."""
        return Counter(outcome.code for outcome in self.outcomes)

    @property
    def failures(self) -> list[str]:
        """What the searches that failed said."""
        return [
            f"{outcome.code}: {outcome.message}"
            for outcome in self.outcomes
            if outcome.code != "OK"
        ]

    def _call_on(self, caller: int) -> None:
        stubs = Stubs(self._address)
        for number in itertools.count(caller):
            if self._stop.is_set():
                break
            self.outcomes.append(self._call(stubs, TEXTS[number % len(TEXTS)]))
        stubs.close()

    def _call(self, stubs: Stubs, text: str) -> Outcome:
        request = search_pb2.SearchRequest(text=text, **self._fields)
        started_s = time.monotonic()
        try:
            response = stubs.search.Search(request, timeout=15)
        except grpc.RpcError as exc:
            return Outcome(started_s, time.monotonic(), exc.code().name, exc.details())
        return Outcome(started_s, time.monotonic(), "OK", response=response)
