"""Generations change under searches: none fails, none mixes two, no bad one serves."""

import asyncio

import pytest

from gateway.admin_service import AdminService
from gateway.query import SearchPlan, TextQuery
from protos.vitrine.v1 import admin_pb2
from rpc.active import read_active, write_active
from rpc.deadlines import Deadline
from rpc.errors import FailedPrecondition, NotFound, Unavailable
from tests.gateway.fakes import catalogue, running

OLD, NEW = catalogue(), catalogue(prefix="new")


def plan(number=0):
    return SearchPlan(TextQuery(f"query {number}"), top_k=10)


def prefixes(answer):
    return {item_id.partition("-")[0] for item_id in answer.hits.item_ids}


def add_generation(it, number, items):
    for shard in it.shards:
        shard.generations[number] = dict(items)
        shard.__post_init__()
        shard.loaded.discard(number)


async def test_promotion_under_load_fails_no_search_and_mixes_no_generations(tmp_path):
    async with running(tmp_path, num_shards=4) as it:
        add_generation(it, 2, NEW)
        seen, stop = [], asyncio.Event()

        async def search_on(caller):
            number = 0
            while not stop.is_set():
                number += 1
                answer = await it.searcher.search(plan(f"{caller}/{number}"), Deadline.after(5))
                seen.append((answer.view.generation, prefixes(answer)))

        async with asyncio.TaskGroup() as tasks:
            for caller in range(8):
                tasks.create_task(search_on(caller))
            await asyncio.sleep(0.05)
            for _ in range(3):
                await it.generations.promote(2)
                await asyncio.sleep(0.03)
                await it.generations.rollback()
                await asyncio.sleep(0.03)
            stop.set()

    assert {generation for generation, _ in seen} == {1, 2}
    assert all(names == ({"item"} if g == 1 else {"new"}) for g, names in seen)


async def test_promotion_is_durable_and_keeps_the_generation_before(tmp_path):
    async with running(tmp_path) as it:
        add_generation(it, 2, NEW)
        await it.generations.promote(2)

        assert (read_active(str(tmp_path)).generation, read_active(str(tmp_path)).previous) == (
            2,
            1,
        )
        assert all(shard.loaded == {1, 2} for shard in it.shards)


async def test_only_two_generations_stay_loaded(tmp_path):
    async with running(tmp_path) as it:
        for number in (2, 3):
            add_generation(it, number, NEW)
            await it.generations.promote(number)

        assert all(shard.loaded == {2, 3} for shard in it.shards)


async def test_rollback_goes_back_and_is_written_down(tmp_path):
    async with running(tmp_path) as it:
        add_generation(it, 2, NEW)
        await it.generations.promote(2)
        await it.generations.rollback("worse results")
        answer = await it.searcher.search(plan(), Deadline.after(5))

        assert prefixes(answer) == {"item"}
        last = read_active(str(tmp_path)).history[-1]
        assert (last.action, last.reason) == ("rollback", "worse results")


async def test_without_a_generation_before_there_is_no_rollback(tmp_path):
    async with running(tmp_path) as it:
        with pytest.raises(FailedPrecondition, match="nothing was promoted before"):
            await it.generations.rollback()


async def test_an_unknown_generation_is_not_found_and_changes_nothing(tmp_path):
    async with running(tmp_path) as it:
        with pytest.raises(NotFound):
            await it.generations.promote(9)

        assert read_active(str(tmp_path)).generation == 1


async def test_a_generation_below_its_gate_needs_a_reason(tmp_path):
    async with running(tmp_path) as it:
        add_generation(it, 2, NEW)
        for shard in it.shards:
            shard.ann_recall = 0.9
        with pytest.raises(FailedPrecondition, match=r"ann_recall@10 0\.9000") as caught:
            await it.generations.promote(2)
        assert caught.value.reason == "BELOW_GATE"
        assert read_active(str(tmp_path)).generation == 1

        await it.generations.promote(2, force_reason="recall is measured on other queries")
        assert read_active(str(tmp_path)).generation == 2


async def test_a_generation_of_another_encoder_is_refused(tmp_path):
    async with running(tmp_path) as it:
        add_generation(it, 2, NEW)
        for shard in it.shards:
            shard.encoder_id = "encoder-b"
        with pytest.raises(FailedPrecondition) as caught:
            await it.generations.promote(2)

        assert caught.value.reason == "ENCODER_MISMATCH"


async def test_promotion_with_a_shard_down_changes_nothing(tmp_path):
    async with running(tmp_path) as it:
        add_generation(it, 2, NEW)
        await it.shard_servers[1].stop(grace=0)
        with pytest.raises(Unavailable):
            await it.generations.promote(2)

        assert read_active(str(tmp_path)).generation == 1


async def test_what_one_shard_cannot_load_no_other_keeps(tmp_path):
    async with running(tmp_path, num_shards=3) as it:
        add_generation(it, 2, NEW)
        for shard in it.shards:
            shard.can_load.add(2)
        it.shards[1].can_load.discard(2)
        it.shards[2].load_delay_s = 0.2
        with pytest.raises(NotFound):
            await it.generations.promote(2)

        assert [shard.loaded for shard in it.shards] == [{1}] * 3


async def test_a_second_gateway_follows_the_pointer(tmp_path):
    async with running(tmp_path) as it:
        add_generation(it, 2, NEW)
        await it.generations.promote(2)
        it.cluster.serve(it.cluster.view(1))  # this gateway has not noticed yet

        await it.cluster.look()

        assert it.cluster.view().generation == 2


async def test_promotions_of_others_leave_two_generations_loaded_and_those_to_compare(tmp_path):
    async with running(tmp_path) as it:
        for number in (2, 3, 4):
            add_generation(it, number, NEW)
        await it.generations.load(4)
        active = read_active(str(tmp_path))
        for number in (2, 3):
            for shard in it.shards:
                shard.loaded.add(number)
            active = active.promoted(number, "promote", "")
            write_active(str(tmp_path), active)
            await it.cluster.look()
            await it.cluster._releasing

        assert it.cluster.view().generation == 3
        assert [shard.loaded for shard in it.shards] == [{2, 3, 4}] * 2


async def test_a_forced_promotion_is_told_by_describe_cluster(tmp_path):
    async with running(tmp_path) as it:
        add_generation(it, 2, NEW)
        for shard in it.shards:
            shard.ann_recall = 0.9
        await it.generations.promote(2, force_reason="measured otherwise")
        admin = AdminService(it.cluster, it.generations, it.catalog, it.items)
        told = await admin.DescribeCluster(admin_pb2.DescribeClusterRequest(), None)

    forced = {entry.generation: entry.forced for entry in told.shards[0].generations}
    assert forced == {1: False, 2: True}


async def test_a_generation_that_was_released_is_retired_not_unknown(tmp_path):
    async with running(tmp_path) as it:
        for generation in (2, 3):
            add_generation(it, generation, NEW)
            await it.generations.promote(generation)
        with pytest.raises(FailedPrecondition) as caught:
            it.cluster.view(1)

        assert caught.value.reason == "GENERATION_RETIRED"
        with pytest.raises(NotFound):
            it.cluster.view(4)


async def test_a_generation_that_may_not_serve_does_not_stay_loaded(tmp_path):
    async with running(tmp_path) as it:
        add_generation(it, 2, NEW)
        for shard in it.shards:
            shard.ann_recall = 0.9
        with pytest.raises(FailedPrecondition):
            await it.generations.promote(2)

        assert all(shard.loaded == {1} for shard in it.shards)
