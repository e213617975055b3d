"""Recall of live searches: a few of them are searched exactly as well, aside and in no hurry."""

import os
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from index_service.executor import one_thread_each
from index_service.holdings import Hold
from index_service.planner import Effort, PlanLimits
from index_service.query import Hits, Query
from index_service.recall import RECALL_K
from index_service.shard import search_segment
from rpc.errors import VitrineError
from rpc.telemetry import get_logger

SELECTIVITY_BANDS = (0.001, 0.01, 0.1, 0.8, 1.0)
"""Upper ends of the bands that recall is told apart by.

Above 0.8, a search is no wider for its filter: `PlanLimits.graph_selectivity_min`.
"""
NO_FILTER = "none"

_NICE = 19


@dataclass(frozen=True, slots=True)
class Sampled:
    """One live search, checked."""

    band: str
    """Upper end of the band that its filter's selectivity is in; NO_FILTER without a filter."""
    found: int
    """How many of the exact best it had found."""
    possible: int
    """How many there are: ten, or fewer where fewer were asked for or match."""


class _BusyError(Exception):
    """Somebody waits for a search, or for memory: the check gives way."""


class RecallSampler:
    """Checks a share of searches, one at a time; gives way to every query that waits.

    Where memory is short, nothing is checked: reading all vectors would push those out that
    searches need.

    Searches on exact paths are left out: they cannot miss anything. So are those with an ef_search
    of their own: what they miss, their caller has asked for.
    """

    def __init__(
        self,
        share: float,
        limits: PlanLimits,
        waiting: Callable[[], int],
        show: Callable[[Sampled | None], None],
    ) -> None:
        """Start nothing yet.

        Args:
            share: of the searches, 0..1.
            limits: where one path becomes better than another.
            waiting: returns how many calls wait for a search thread.
            show: told of every check; None for one that was dropped.
        """
        self._share = share
        self._limits = limits
        self._waiting = waiting
        self._show = show
        self._checking = threading.Semaphore(1)
        self._closed = False
        self._pool = ThreadPoolExecutor(1, "recall", initializer=_stand_back)

    def offer(
        self, hold: Callable[[], Hold], queries: Sequence[Query], hits: Sequence[Hits]
    ) -> None:
        """Check some of the searches just answered, unless another check is running.

        Args:
            hold: returns a hold on the generation searched; the check closes it.
            queries: what was asked.
            hits: what was answered, in the same order.
        """
        if not self._share or self._closed:
            return
        for query, answer in zip(queries, hits, strict=True):
            if answer.profile.path.exact or query.ef_search is not None:
                continue
            # Which searches are looked at is no secret.
            if random.random() < self._share:  # noqa: S311
                self._begin(hold, query, answer)

    def close(self) -> None:
        """Let a running check end soon, and begin no other."""
        self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _begin(self, hold: Callable[[], Hold], query: Query, answer: Hits) -> None:
        if self._waiting() or not self._checking.acquire(blocking=False):
            self._show(None)
            return
        try:
            held = hold()
        except VitrineError:  # the generation is on its way out
            self._checking.release()
            return
        try:
            self._pool.submit(self._check, held, query, answer)
        except RuntimeError:  # this process is on its way out
            held.close()
            self._checking.release()

    def _check(self, held: Hold, query: Query, answer: Hits) -> None:
        try:
            with held:
                stop = partial(self._give_way, held)
                stop()
                self._show(compare(held, query, answer, self._limits, stop))
        except _BusyError:
            self._show(None)
        except Exception:
            get_logger().exception("a recall check failed")
        finally:
            self._checking.release()

    def _give_way(self, held: Hold) -> None:
        """Go on, or stop: called between blocks of vectors."""
        if self._closed or self._waiting() or held.segment.memory_is_short:
            raise _BusyError


def compare(
    held: Hold, query: Query, answer: Hits, limits: PlanLimits, stop: Callable[[], None]
) -> Sampled:
    """Search exactly, and count what the answer had of the best ten."""
    k = min(RECALL_K, query.fetch_k)
    exactly = replace(query, exact=True, fetch_k=k)
    [best] = search_segment(held.segment, [exactly], Effort(1), limits, stop)
    possible = len(best.scores)
    least = best.scores[-1] if possible else 0.0
    found = int((answer.scores[:k] >= least).sum())
    band = NO_FILTER if query.filter is None else band_of(answer.profile.selectivity)
    return Sampled(band, min(found, possible), possible)


def band_of(selectivity: float) -> str:
    """Return the upper end of the band that a filter's selectivity is in.

    >>> band_of(0.05), band_of(0.4), band_of(1.0)
    ('0.1', '0.8', '1')
    """
    return f"{next(most for most in SELECTIVITY_BANDS if selectivity <= most):g}"


def _stand_back() -> None:
    """Let every other thread go first: on Linux, threads have a niceness of their own."""
    one_thread_each()
    if hasattr(os, "setpriority"):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
