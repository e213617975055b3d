"""Who embeds a catalogue's texts: threads of this process, or a Ray cluster; the same vectors."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoder_service.bundle import EncoderBundle, load_bundle
from encoder_service.encoder import Encoder, load_encoder
from encoder_service.layout import usable_cores
from encoder_service.settings import ReferenceSettings
from rpc import ray_cluster
from rpc.errors import VitrineError
from rpc.terminal import CommandError, warn

Halves = NDArray[np.float16]
EmbedPortions = Callable[[Sequence[Sequence[str]]], Iterator[Halves]]
"""Yields the vectors of each portion of texts, shape (n, dim), in order."""


def load_checked(bundle: EncoderBundle, limits: ReferenceSettings) -> Encoder:
    """Load a bundle and hold what it makes on this processor against what it recorded.

    Raises:
        CommandError: it makes something else, and the settings do not override that.
        VitrineError: the bundle is damaged, or holds no bi-encoder.
    """
    encoder = load_encoder(bundle)
    if told := encoder.check_references().shortfall(limits):
        if not limits.serve_below_reference_cosine:
            raise CommandError(
                f"{bundle.folder}: {told}: embed on a processor that the bundle fits, export a "
                "bundle here, or set VITRINE_ENCODER_SERVE_BELOW_REFERENCE_COSINE=true to embed "
                "anyway"
            )
        warn(f"{bundle.folder}: {told}: embedding anyway, as the settings say")
    return encoder


def embed_workers(
    encoder: Encoder, ray: str, limits: ReferenceSettings
) -> AbstractContextManager[EmbedPortions]:
    """Return who embeds: the Ray cluster at an address, or this machine where that is empty.

    Args:
        encoder: a checked one, for this machine.
        ray: address of the cluster.
        limits: what every process of the cluster is held to.

    Raises:
        CommandError: (while entered) there is no cluster, one of its machines or processes is gone,
            cannot load the bundle or makes other vectors with it.
    """
    return _on_cluster(ray, encoder.bundle.folder, limits) if ray else _on_threads(encoder)


@contextmanager
def _on_threads(encoder: Encoder) -> Iterator[EmbedPortions]:
    """Embed on a thread a core of this machine."""
    threads = ThreadPoolExecutor(usable_cores(), "embed")
    try:
        yield lambda portions: threads.map(partial(_embedded, encoder), portions)
    finally:
        threads.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _on_cluster(address: str, bundle: Path, limits: ReferenceSettings) -> Iterator[EmbedPortions]:
    """Embed in a process a core of a Ray cluster, each with the bundle loaded.

    Args:
        address: host:port or ray://host:port, or `ray_cluster.LOCAL`.
        bundle: folder of the bundle, at the same path on every machine.
        limits: how close to its recorded vectors the bundle must come on each.
    """
    ray = ray_cluster.joined(address)
    try:
        remote = ray.remote(num_cpus=1)(_Embedder)
        path = str(bundle.absolute())
        embedders = [remote.remote(path, limits) for _ in range(ray_cluster.cores(ray))]
        yield partial(_in_order, ray, embedders)
    finally:
        # Leaves the cluster, and ends it if it was started here.
        ray.shutdown()


def _in_order(
    ray: Any, embedders: Sequence[Any], portions: Sequence[Sequence[str]]
) -> Iterator[Halves]:
    """Give each portion to whichever embedder is free first; yield what they make, in order."""
    waiting: dict[Any, int] = {}
    busy: dict[Any, Any] = {}
    done: dict[int, Halves] = {}
    free = list(embedders)
    given = taken = 0
    while taken < len(portions):
        while free and given < len(portions):
            embedder = free.pop()
            reference = embedder.embed.remote(portions[given])
            waiting[reference], busy[reference] = given, embedder
            given += 1
        [reference], _ = ray.wait(list(waiting))
        done[waiting.pop(reference)] = ray_cluster.result(ray, reference)
        free.append(busy.pop(reference))
        while taken in done:
            yield done.pop(taken)
            taken += 1


class _Embedder:
    """A bundle loaded and checked in a process of the cluster."""

    def __init__(self, bundle: str, limits: ReferenceSettings) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._bundle = Path(bundle)
        self._limits = limits
        self._encoder: Encoder | None = None

    def embed(self, texts: Sequence[str]) -> Halves:
        """Return the vectors of texts."""
        try:
            self._encoder = self._encoder or load_checked(load_bundle(self._bundle), self._limits)
        except VitrineError as exc:
            # These do not survive the way between processes; their sentence does.
            raise CommandError(str(exc)) from None
        return _embedded(self._encoder, texts)


def _embedded(encoder: Encoder, texts: Sequence[str]) -> Halves:
    return encoder.encode(texts).astype(np.float16)
