"""The generations that a shard holds, and who is using them."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from threading import Condition
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from index_service.generation.manifest import Manifest
from index_service.segment import Segment
from rpc.errors import FailedPrecondition, NotFound, ResourceExhausted, Unavailable


class State(Enum):
    """Where a generation stands."""

    LOADING = "loading"
    READY = "ready"
    RELEASING = "releasing"


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A generation that can be searched."""

    manifest: Manifest
    segment: Segment
    probes: NDArray[np.float32]
    """Probe queries of the whole generation, shape (n, dim)."""


@dataclass(slots=True, eq=False)
class Holding:
    """A generation coming, here or going; `loaded` is None while it comes."""

    generation: int
    state: State = State.LOADING
    loaded: Loaded | None = None
    users: int = 0


class Hold:
    """Keeps a generation in memory until closed; closing twice is closing once."""

    def __init__(self, loaded: Loaded, let_go: Callable[[], None]) -> None:
        self.manifest = loaded.manifest
        self.segment = loaded.segment
        self.probes = loaded.probes
        self._let_go: Callable[[], None] | None = let_go

    def close(self) -> None:
        """Let go."""
        if let_go := self._let_go:
            self._let_go = None
            let_go()

    def __enter__(self) -> "Hold":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Holdings:
    """Knows every generation's state and users; all methods may be called from any thread."""

    def __init__(self, generations_max: int) -> None:
        self._generations_max = generations_max
        self._holdings: dict[int, Holding] = {}
        self._retired: set[int] = set()
        self._changed = Condition()

    def hold(self, generation: int) -> Hold:
        """Return a hold on a generation that can be searched.

        Raises:
            NotFound: it was never loaded here.
            Unavailable: LOADING, it is on its way.
            FailedPrecondition: GENERATION_RETIRED, it was released.
        """
        with self._changed:
            holding = self._holdings.get(generation)
            if holding is None and generation not in self._retired:
                raise NotFound("generation", [generation])
            if holding is None or holding.state is State.RELEASING:
                raise FailedPrecondition(
                    "GENERATION_RETIRED",
                    f"generation {generation} was released; search the promoted one",
                    expected=", ".join(map(str, self._ready())),
                    got=generation,
                )
            if holding.loaded is None:
                raise Unavailable("LOADING", f"generation {generation} is still being loaded")
            holding.users += 1
            return Hold(holding.loaded, lambda: self._let_go(holding))

    def begin(self, generation: int) -> Loaded | None:
        """Announce that a generation is being loaded; return it when it is here already.

        Waits while it is being released or loaded by another thread.

        Raises:
            ResourceExhausted: as many generations as allowed are here.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._is_moving(generation))
            if holding := self._holdings.get(generation):
                return holding.loaded
            if len(self._holdings) >= self._generations_max:
                raise ResourceExhausted(
                    f"generations {', '.join(map(str, sorted(self._holdings)))} are loaded, and "
                    f"{self._generations_max} is the most allowed; release one first",
                    retry_after_s=10,
                )
            self._holdings[generation] = Holding(generation)
            self._retired.discard(generation)
            return None

    def finish(self, generation: int, loaded: Loaded) -> None:
        """Let searches see a generation."""
        with self._changed:
            holding = self._holdings[generation]
            holding.loaded, holding.state = loaded, State.READY
            self._changed.notify_all()

    def give_up(self, generation: int) -> None:
        """Forget a generation that could not be loaded."""
        with self._changed:
            del self._holdings[generation]
            self._changed.notify_all()

    def release(self, generation: int) -> bool:
        """Refuse new searches of a generation, wait for those running, drop it.

        Returns:
            False when it was not here.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._is_moving(generation))
            holding = self._holdings.get(generation)
            if holding is None:
                return False
            holding.state = State.RELEASING
            self._retired.add(generation)
            self._changed.wait_for(lambda: holding.users == 0)
            del self._holdings[generation]
            self._changed.notify_all()
            return True

    def all(self) -> list[Holding]:
        """Return every holding, by generation."""
        with self._changed:
            return [self._holdings[generation] for generation in sorted(self._holdings)]

    @property
    def any_ready(self) -> bool:
        """Tell whether some generation can be searched."""
        with self._changed:
            return bool(self._ready())

    def _ready(self) -> list[int]:
        return [each.generation for each in self._holdings.values() if each.state is State.READY]

    def _is_moving(self, generation: int) -> bool:
        holding = self._holdings.get(generation)
        return holding is not None and holding.state is not State.READY

    def _let_go(self, holding: Holding) -> None:
        with self._changed:
            holding.users -= 1
            self._changed.notify_all()
