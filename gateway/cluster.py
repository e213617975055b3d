"""What the gateway knows of the cluster: its replicas, its encoder, the promoted generation.

A background look once a second keeps it true; searches only read it.
"""

import asyncio
import socket
import time
from collections.abc import Sequence

from gateway.encoder_client import EncoderClient
from gateway.pointer import Pointer
from gateway.replica import Replica, probe_all, release_all
from gateway.settings import GatewaySettings
from gateway.shard_client import ShardClient
from gateway.view import GenerationView, view_of
from protos.vitrine.v1 import index_pb2
from rpc.active import Active
from rpc.deadlines import Deadline
from rpc.errors import FailedPrecondition, NotFound, Unavailable, VitrineError
from rpc.telemetry import get_logger


class Cluster:
    """Encoder, shards and the active generation, as last seen."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.encoder = EncoderClient(settings)
        self.shards = tuple(
            ShardClient(shard, settings, self.serves, self.look_soon)
            for shard in range(len(settings.shard_targets))
        )
        self.targets = settings.shard_targets
        self.active = Active()
        self.blocked_on: VitrineError | None = Unavailable("STARTING", "the gateway is starting")
        self._settings = settings
        self._view: GenerationView | None = None
        self._startup_grace = Deadline.after(settings.startup_grace_s)
        self.became_ready = asyncio.Event()
        self._look_now = asyncio.Event()
        self._looking = asyncio.Lock()
        self._looked_s = float("-inf")
        self._pointer = Pointer(settings.generations)
        self._unresolved: dict[str, str] = {}
        self._releasing: asyncio.Task[None] | None = None
        self._log = get_logger()

    def view(self, generation: int | None = None) -> GenerationView:
        """Return the promoted generation, or another one that is loaded.

        Raises:
            VitrineError: no generation is served yet; says what that waits for.
            NotFound: no shard holds the generation asked for.
            Unavailable: SHARD_LOADING, it is on its way.
            FailedPrecondition: GENERATION_RETIRED, none holds it any more; SHARD_COUNT_MISMATCH,
                these are not all of its shards.
        """
        if self._view is None:
            assert self.blocked_on is not None
            raise self.blocked_on
        if generation is None or self._view.generation == generation:
            return self._view
        loaded = [shard.describe(generation) for shard in self.shards]
        if not any(entry is not None for entry in loaded):
            raise self._not_held(generation)
        self.require_shard_count(generation, _num_shards(loaded))
        return view_of(loaded)

    def _not_held(self, generation: int) -> VitrineError:
        """Return why a generation cannot be searched: it will be, it was once, or it never was."""
        if coming := self._coming(generation):
            return coming
        if all(entry.generation != generation for entry in self.active.history):
            return NotFound("generation", [generation])
        return FailedPrecondition(
            "GENERATION_RETIRED",
            f"generation {generation} was released; search the promoted one",
            expected=self.active.generation,
            got=generation,
        )

    def _coming(self, generation: int) -> Unavailable | None:
        """Return what to say of a generation that no shard holds yet, if one is loading it."""
        loading = [shard.shard for shard in self.shards if shard.is_loading(generation)]
        if not loading:
            return None
        return Unavailable(
            "SHARD_LOADING", f"shards {loading} are still loading generation {generation}"
        )

    def has_left(self, generation: int) -> bool:
        """Tell whether promotions have moved on from a generation, so that shards let go of it."""
        promoted = any(entry.generation == generation for entry in self.active.history)
        return promoted and generation not in kept_by(self.active)

    @property
    def replicas(self) -> list[Replica]:
        """Every replica of every shard."""
        return [replica for shard in self.shards for replica in shard.replicas]

    @property
    def ready(self) -> bool:
        """Tell whether a generation is being served."""
        return self._view is not None

    def serves(self, generation: int) -> bool:
        """Tell whether searches see a generation unless they name another one."""
        return self._view is not None and self._view.generation == generation

    def look_soon(self) -> None:
        """Ask for a look now instead of at the next turn; a slow shard is a reason."""
        self._look_now.set()

    async def watch(self) -> None:
        """Keep looking until cancelled."""
        while True:
            # Before the look: what is asked for during one may be about what it has seen already.
            self._look_now.clear()
            try:
                await self.look()
            except Exception as exc:
                # Whatever it is, the next look may go well, and nobody else looks.
                self._log.warning(
                    "look at the cluster failed", error=str(exc), kind=type(exc).__name__
                )
            try:
                async with asyncio.timeout(self._settings.refresh_s):
                    await self._look_now.wait()
            except TimeoutError:
                continue

    async def look(self) -> None:
        """Resolve names, probe everything, and follow the pointer to the active generation.

        Looks follow each other; one that began after this one was asked for is this one, too.
        """
        asked_s = time.monotonic()
        async with self._looking:
            if self._looked_s > asked_s:
                return
            began_s = time.monotonic()
            await self._look()
            self._looked_s = began_s

    async def _look(self) -> None:
        await self._resolve_replicas()
        timeout_s = self._settings.probe_timeout_s
        active, *_ = await asyncio.gather(
            self._pointer.read(timeout_s),
            self.encoder.probe(timeout_s),
            probe_all(self.replicas, timeout_s),
        )
        if active is not None:
            self._follow(active)
        elif self._pointer.error is not None:
            self._block(self._pointer.error)
            self._keep_serving(self._pointer.error)

    def _follow(self, active: Active) -> None:
        """Serve the active generation once it can be served, and keep its view up to date."""
        self.active = active
        generation = active.generation
        if not generation:
            self._block(Unavailable("NO_GENERATION", "no generation is promoted yet"))
            return
        self._load_where_missing(generation)
        try:
            view = self._checked_view(generation)
            if self._view is None:
                self._require_whole(generation)
        except VitrineError as exc:
            self._block(exc)
            self._keep_serving(exc)
        else:
            was_switched = self.ready and not self.serves(generation)
            self.serve(view)
            if was_switched:
                self._start_releasing()

    def _block(self, why: VitrineError) -> None:
        """Remember why the promoted generation cannot be served, and log it when it is news."""
        if str(why) != str(self.blocked_on):
            self._log.warning("cannot serve what is promoted", reason=why.reason, error=str(why))
        self.blocked_on = why

    def _keep_serving(self, why: VitrineError) -> None:
        """Bring back what is served, too, while the promoted generation cannot be.

        What promotions have left behind is let go of, and not for long: the promoted one is on its
        way. But one that never fits is never served, however many follow it.
        """
        if self._view is None:
            return
        served = self._view.generation
        if isinstance(why, FailedPrecondition) or not self.has_left(served):
            self._load_where_missing(served)

    def _start_releasing(self) -> None:
        """Make replicas let go of what promotions have left behind; looks do not wait for it.

        Whoever promoted may have found no replica of ours. What was never promoted is there to be
        compared, and stays.
        """
        if self._releasing is None or self._releasing.done():
            there = [replica for replica in self.replicas if replica.reachable]
            releasing = release_all(there, self.has_left, self._settings.admin_timeout_s)
            self._releasing = asyncio.create_task(releasing)

    def switch(self, active: Active, view: GenerationView) -> None:
        """Serve what this gateway has made active."""
        self._pointer.forget()  # A read that is under way may have begun before it moved.
        self.active = active
        self.serve(view)

    def serve(self, view: GenerationView) -> None:
        """Switch searches to a generation, in one step."""
        self.became_ready.set()
        if self._view is None or self._view.generation != view.generation:
            self._log.info("serving", generation=view.generation, items=view.items_total)
        self._view = view
        self.blocked_on = None

    def _checked_view(self, generation: int) -> GenerationView:
        """Return the view of a generation that can be served now.

        Raises:
            Unavailable: no answering replica of some shard holds it yet, or none answers.
            FailedPrecondition: it does not belong to these shards or this encoder.
        """
        loaded = [shard.describe(generation) for shard in self.shards]
        if not any(entry is not None for entry in loaded):
            raise self._coming(generation) or Unavailable(
                "NO_SHARD", f"no shard holds generation {generation}: {self._why(generation)}"
            )
        for shard in self.shards:
            self._require_held(shard, generation)
        view = view_of(loaded)
        self.require_fit(view, _num_shards(loaded))
        return view

    def _require_held(self, shard: ShardClient, generation: int) -> None:
        """Refuse to serve a generation without a shard that can be reached and may yet hold it.

        A switch waits for all of them, since what is served now is whole. With nothing to serve
        yet, those that do not load it are waited for no longer than those that are down.

        Raises:
            Unavailable: the shard loads it, or lacks it.
        """
        there = [replica for replica in shard.replicas if replica.reachable]
        if not there or any(replica.holds(generation) for replica in there):
            return
        where = f"shard {shard.shard} at {there[0].address}"
        if any(replica.is_loading(generation) for replica in there):
            raise Unavailable("SHARD_LOADING", f"{where} is loading generation {generation}")
        if self.ready or not self._startup_grace.passed:
            whys = [why for replica in there if (why := replica.why_not(generation))]
            why = "; ".join(whys) or "it let go of it"
            raise Unavailable("SHARD_LOADING", f"{where} lacks generation {generation}: {why}")

    def require_fit(self, view: GenerationView, num_shards: int) -> None:
        """Refuse a generation that these shards or this encoder cannot serve.

        Raises:
            FailedPrecondition: SHARD_COUNT_MISMATCH or ENCODER_MISMATCH.
        """
        self.require_shard_count(view.generation, num_shards)
        encoder_id = self.encoder.description.encoder_id
        if encoder_id:
            require_encoder(view, encoder_id)

    def require_shard_count(self, generation: int, num_shards: int) -> None:
        """Refuse a generation that these shards are only a part of.

        Raises:
            FailedPrecondition: SHARD_COUNT_MISMATCH.
        """
        if num_shards != len(self.shards):
            raise FailedPrecondition(
                "SHARD_COUNT_MISMATCH",
                f"generation {generation} is cut into {num_shards} shards; "
                f"this gateway has {len(self.shards)}",
                expected=len(self.shards),
                got=num_shards,
            )

    def _require_whole(self, generation: int) -> None:
        """Refuse to start serving without the encoder or, for a while, without all shards.

        Raises:
            Unavailable: names what is missing.
        """
        if not self.encoder.reachable:
            raise Unavailable(
                "ENCODER_DOWN", f"encoder at {self.encoder.target}: {self.encoder.detail}"
            )
        missing = [s.shard for s in self.shards if s.describe(generation) is None]
        if missing and not self._startup_grace.passed:
            why = self._why(generation)
            raise Unavailable("SHARD_DOWN", f"waiting for shards {missing}: {why}")

    def _load_where_missing(self, generation: int) -> None:
        """Make replicas load a generation where they lack it; looks do not wait for it."""
        for replica in self.replicas:
            if replica.reachable and generation not in replica.generations:
                replica.start_loading(generation, self._settings.admin_timeout_s)

    async def _resolve_replicas(self) -> None:
        """Bring each shard's replicas in line with the addresses that its name has now."""
        for shard, targets in zip(self.shards, self.targets, strict=True):
            addresses = [a for target in targets for a in await self._resolved(target)]
            kept = {replica.address: replica for replica in shard.replicas}
            if addresses and set(addresses) != set(kept):
                limit = self._settings.message_bytes_max
                shard.replicas = tuple(
                    kept.pop(a) if a in kept else Replica(a, shard.shard, limit) for a in addresses
                )
                for gone in kept.values():
                    await gone.close()

    async def _resolved(self, target: str) -> Sequence[str]:
        """Return the addresses behind a target now, none where its name is unknown."""
        try:
            addresses = await _addresses_of(target)
        except (OSError, UnicodeError) as exc:
            self._unresolved[target] = f"{target} does not resolve: {exc}"
            return ()
        self._unresolved.pop(target, None)
        return addresses

    def _why(self, generation: int) -> str:
        """Return what keeps replicas from holding a generation, each reason once."""
        said = (replica.detail or replica.why_not(generation) for replica in self.replicas)
        reasons = [*self._unresolved.values(), *filter(None, said)]
        return "; ".join(dict.fromkeys(reasons)) or "they have not loaded it yet"

    async def close(self) -> None:
        """Close all connections."""
        if self._releasing is not None:
            self._releasing.cancel()
            await asyncio.gather(self._releasing, return_exceptions=True)
        await self._pointer.close()
        await self.encoder.close()
        for shard in self.shards:
            await shard.close()


def require_encoder(view: GenerationView, encoder_id: str) -> None:
    """Refuse an encoder whose vectors mean nothing in a generation.

    Raises:
        FailedPrecondition: ENCODER_MISMATCH.
    """
    if not view.accepts(encoder_id):
        raise FailedPrecondition(
            "ENCODER_MISMATCH",
            f"generation {view.generation} was embedded by encoder {view.encoder_id}; "
            f"the query's encoder is {encoder_id}",
            expected=view.encoder_id,
            got=encoder_id,
        )


def kept_by(active: Active) -> set[int]:
    """Return the generations that stay loaded: the promoted one, and the one for a rollback."""
    return {active.generation, active.previous}


def _num_shards(loaded: Sequence[index_pb2.LoadedGeneration | None]) -> int:
    """Return into how many shards a generation is cut; at least one must be known."""
    return next(entry.num_shards for entry in loaded if entry is not None)


async def _addresses_of(target: str) -> Sequence[str]:
    """Return the addresses behind "host:port".

    Raises:
        OSError: the name is unknown now.
    """
    host, _, port = target.removeprefix("dns:///").rpartition(":")
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    hosts = sorted({str(entry[4][0]) for entry in found})
    return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host in hosts]
