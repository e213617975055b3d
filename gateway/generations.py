"""Moving searches from one generation to another, and back: publish, never mutate."""

import asyncio
from collections.abc import Sequence
from typing import Literal

from gateway.cluster import Cluster, kept_by
from gateway.replica import release_all
from gateway.settings import GatewaySettings
from gateway.view import GenerationView, view_of
from protos.vitrine.v1 import index_pb2, types_pb2
from rpc.active import Active, read_active, write_active
from rpc.errors import FailedPrecondition, Unavailable, VitrineError
from rpc.telemetry import get_logger


class Generations:
    """Loads, promotes and rolls back, one operation at a time."""

    def __init__(self, cluster: Cluster, settings: GatewaySettings) -> None:
        self._cluster = cluster
        self._url = settings.generations
        self._timeout_s = settings.admin_timeout_s
        self._one_at_a_time = asyncio.Lock()
        self._log = get_logger()

    async def load(self, generation: int) -> Sequence[index_pb2.LoadedGeneration]:
        """Make every replica of every shard load a generation; return one entry a shard.

        Raises:
            VitrineError: what the first failing replica said.
            Unavailable: a shard has no replica that can be reached.
            FailedPrecondition: SHARD_COUNT_MISMATCH, it has other shards than these.
        """
        lacking = [r for r in self._cluster.replicas if generation not in r.generations]
        loads = [
            [replica.load(generation, self._timeout_s) for replica in shard.replicas]
            for shard in self._cluster.shards
        ]
        for shard, loading in enumerate(loads):
            if not loading:
                raise Unavailable("SHARD_DOWN", f"shard {shard} has no address")
        # All of them end before the first error is told: what one still loads cannot be released.
        ended = await asyncio.gather(
            *(asyncio.gather(*loading, return_exceptions=True) for loading in loads)
        )
        loaded = [_all_loaded(replicas)[0] for replicas in ended]
        try:
            self._cluster.require_shard_count(generation, loaded[0].num_shards)
        except FailedPrecondition:
            # Those that had it before may serve it for a gateway with all its shards.
            await release_all(lacking, lambda held: held == generation, self._timeout_s)
            raise
        return loaded

    async def promote(self, generation: int, force_reason: str = "") -> Active:
        """Load everywhere, check, switch, let older generations go; return what is active now.

        Raises:
            FailedPrecondition: it does not fit encoder or shards, or is below its recall gate.
            VitrineError: a shard could not load it.
        """
        async with self._one_at_a_time:
            return await self._switch(generation, "promote", force_reason)

    async def rollback(self, reason: str = "") -> Active:
        """Promote the generation that was active before.

        Raises:
            FailedPrecondition: there is none.
        """
        async with self._one_at_a_time:
            active = await asyncio.to_thread(read_active, self._url)
            if not active.previous:
                raise FailedPrecondition("NO_PREVIOUS_GENERATION", "nothing was promoted before")
            return await self._switch(active.previous, "rollback", reason)

    async def _switch(
        self, generation: int, action: Literal["promote", "rollback"], reason: str
    ) -> Active:
        """Do the steps in the only order that never loses a search."""
        # 1. Every shard has it, and it may be served; shards do not keep what may not.
        try:
            view = await self._prepared(generation, gated=action == "promote" and not reason)
        except VitrineError:
            if generation not in kept_by(self._cluster.active):
                await release_all(
                    self._cluster.replicas, lambda held: held == generation, self._timeout_s
                )
            raise
        # 2. The pointer moves, durably; then searches move, in one step.
        before = await asyncio.to_thread(read_active, self._url)
        active = before.promoted(generation, action, reason)
        await asyncio.to_thread(write_active, self._url, active)
        self._cluster.switch(active, view)
        # 3. The generation before stays for a rollback; older ones go.
        await release_all(
            self._cluster.replicas, lambda held: held not in kept_by(active), self._timeout_s
        )
        self._log.info(action, generation=generation, previous=active.previous, reason=reason)
        return active

    async def _prepared(self, generation: int, *, gated: bool) -> GenerationView:
        """Load a generation on every shard, verified and warm; refuse one that must not serve."""
        loaded = await self.load(generation)
        await self._cluster.encoder.probe(self._timeout_s)
        view = view_of(loaded)
        self._cluster.require_fit(view, loaded[0].num_shards)
        if gated:
            _require_gate(view, loaded[0].gate)
        return view


def _all_loaded(
    replicas: Sequence[index_pb2.LoadedGeneration | BaseException],
) -> list[index_pb2.LoadedGeneration]:
    """Return what each replica loaded; raise what the first said that could not."""
    loaded = []
    for outcome in replicas:
        if isinstance(outcome, BaseException):
            raise outcome
        loaded.append(outcome)
    return loaded


def _require_gate(view: GenerationView, gate: types_pb2.Gate) -> None:
    """Refuse a generation that finds less than it must.

    Raises:
        FailedPrecondition: BELOW_GATE.
    """
    if gate.ann_recall_at_10 < gate.required_ann_recall_at_10:
        raise FailedPrecondition(
            "BELOW_GATE",
            f"generation {view.generation} has ann_recall@10 {gate.ann_recall_at_10:.4f}; required "
            f"{gate.required_ann_recall_at_10:.4f}. Build it again with a larger ef_construction, "
            "or promote it with a reason",
            expected=gate.required_ann_recall_at_10,
            got=gate.ann_recall_at_10,
        )
