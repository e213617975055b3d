"""Who embeds a catalogue's texts: threads of this process, or a Ray cluster; the same vectors."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from encoder_service.bundle import load_bundle
from encoder_service.encoder import Encoder, load_encoder
from rpc import ray_cluster
from rpc.errors import VitrineError
from rpc.terminal import CommandError

Halves = NDArray[np.float16]


class EmbedWorkers(Protocol):
    """Embeds portions of texts side by side."""

    def __enter__(self) -> "EmbedWorkers": ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def vectors(self, portions: Sequence[Sequence[str]]) -> Iterator[Halves]:
        """Yield the vectors of each portion, shape (n, dim), in order."""
        ...


def embed_workers(encoder: Encoder, ray: str) -> EmbedWorkers:
    """Return who embeds: the Ray cluster at an address, or this machine where that is empty."""
    return RayEmbedders(ray, encoder.bundle.folder) if ray else EmbedThreads(encoder)


class EmbedThreads:
    """A thread a core of this machine."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._threads = ThreadPoolExecutor(len(os.sched_getaffinity(0)), "embed")

    def __enter__(self) -> "EmbedThreads":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)

    def vectors(self, portions: Sequence[Sequence[str]]) -> Iterator[Halves]:
        """Yield the vectors of each portion, in order."""
        return self._threads.map(lambda texts: _embedded(self._encoder, texts), portions)


class RayEmbedders:
    """A process a core of a Ray cluster, each with the bundle loaded."""

    def __init__(self, address: str, bundle: Path) -> None:
        """Join the cluster, and load the bundle on each of its cores.

        Args:
            address: host:port or ray://host:port, or `ray_cluster.LOCAL`.
            bundle: folder of the bundle, at the same path on every machine.

        Raises:
            CommandError: there is no cluster.
        """
        self._ray = ray_cluster.joined(address)
        remote = self._ray.remote(num_cpus=1)(_Embedder)
        path = str(bundle.absolute())
        self._embedders = [remote.remote(path) for _ in range(ray_cluster.cores(self._ray))]

    def __enter__(self) -> "RayEmbedders":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Leaves the cluster, and ends it if it was started here.
        self._ray.shutdown()

    def vectors(self, portions: Sequence[Sequence[str]]) -> Iterator[Halves]:
        """Yield the vectors of each portion, in order.

        Raises:
            CommandError: a machine or process is gone, or cannot load the bundle.
        """
        waiting: dict[Any, int] = {}
        done: dict[int, Halves] = {}
        free = list(self._embedders)
        busy: dict[Any, Any] = {}
        given = taken = 0
        while taken < len(portions):
            # Each embedder has one portion; the next goes to whichever is done first.
            while free and given < len(portions):
                embedder = free.pop()
                reference = embedder.embed.remote(portions[given])
                waiting[reference], busy[reference] = given, embedder
                given += 1
            [reference], _ = self._ray.wait(list(waiting))
            done[waiting.pop(reference)] = ray_cluster.result(self._ray, reference)
            free.append(busy.pop(reference))
            while taken in done:
                yield done.pop(taken)
                taken += 1


class _Embedder:
    """A bundle loaded in a process of the cluster."""

    def __init__(self, bundle: str) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._bundle = Path(bundle)
        self._encoder: Encoder | None = None

    def embed(self, texts: Sequence[str]) -> Halves:
        """Return the vectors of texts."""
        try:
            self._encoder = self._encoder or load_encoder(load_bundle(self._bundle))
        except VitrineError as exc:
            # These do not survive the way between processes; their sentence does.
            raise CommandError(str(exc)) from None
        return _embedded(self._encoder, texts)


def _embedded(encoder: Encoder, texts: Sequence[str]) -> Halves:
    return encoder.encode(texts).astype(np.float16)
