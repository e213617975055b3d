"""What a generation needs of memory, and whether it is there."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from index_service.memory import MemoryBudget, available_bytes, needed_bytes
from rpc.errors import ResourceExhausted
from tests.index_service.catalogue import (
    Catalogue,
    build,
    manifest_of,
    open_shard,
    random_attributes,
    random_units,
)

MIB = 2**20


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("memory")
    rng = np.random.default_rng(0)
    catalogue = Catalogue(random_units(rng, 400), random_units(rng, 4), random_attributes(rng, 400))
    for _ in range(2):
        build(catalogue, folder)
    return folder


def test_generations_fit_until_the_budget_is_spent():
    budget = MemoryBudget(100 * MIB)
    budget.reserve(1, 60 * MIB)
    with pytest.raises(ResourceExhausted) as refused:
        budget.reserve(2, 60 * MIB)
    assert "generation 2 needs about 60 MiB of memory beside generation 1 (60 MiB)" in str(
        refused.value
    )
    assert "budget of 100 MiB leaves 40 MiB" in str(refused.value)
    budget.free(1)
    budget.reserve(2, 60 * MIB)
    assert budget.held_bytes == 60 * MIB


def test_without_a_budget_what_is_left_decides():
    left = [80 * MIB]
    budget = MemoryBudget(available=lambda: left[0])
    budget.reserve(1, 60 * MIB)
    left[0] = 20 * MIB
    with pytest.raises(ResourceExhausted, match="this machine or container leaves 20 MiB"):
        budget.reserve(2, 60 * MIB)


def test_a_container_limit_counts_without_its_file_cache(tmp_path, monkeypatch):
    files = {"max": "1000000", "current": "900000", "stat": "anon 100000\nfile 800000\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    paths = tuple(str(tmp_path / name) for name in files)
    monkeypatch.setattr("index_service.memory._CGROUP_FILES", (paths,))
    assert available_bytes() == 900_000
    Path(paths[0]).write_text("max\n")
    assert available_bytes() > 10 * MIB


def test_more_items_values_and_filters_need_more(home):
    manifest = manifest_of(home)
    needed = needed_bytes(manifest, 0, 128)
    assert needed > needed_bytes(manifest, 0, 0)
    assert needed > needed_bytes(replace(manifest, attributes=()), 0, 128)
    assert needed_bytes(manifest, 0, 0) >= 400 * 40


def test_a_released_or_refused_generation_gives_its_memory_back(home):
    budget = MemoryBudget(100 * MIB)
    shard = open_shard(home, budget=budget)
    shard.load(1)
    one = budget.held_bytes
    shard.load(2)
    assert budget.held_bytes == 2 * one
    shard.release(1)
    assert budget.held_bytes == one
    (home / "generations" / "000001" / "shard-0000" / "nodes.u32").rename(home / "aside")
    with pytest.raises(Exception, match="missing"):
        shard.load(1)
    (home / "aside").rename(home / "generations" / "000001" / "shard-0000" / "nodes.u32")
    assert budget.held_bytes == one
