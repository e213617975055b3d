"""What a generation needs of memory, and whether it is there."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from index_service.filter import Equals, OneOf
from index_service.memory import MemoryBudget, available_bytes, needed_bytes
from index_service.segment import RecentMatches
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


def test_what_was_reserved_in_addition_is_given_back_once():
    budget = MemoryBudget(100 * MIB)
    budget.reserve(1, 40 * MIB)
    assert not budget.reserve_more(1, 40 * MIB, spare=21 * MIB)
    assert budget.reserve_more(1, 40 * MIB, spare=20 * MIB)
    assert budget.held_bytes == 80 * MIB
    budget.give_back(1, 40 * MIB)
    assert budget.held_bytes == 40 * MIB
    # As where a generation on its way out still has files locked.
    budget.free(1)
    budget.give_back(1, 40 * MIB)
    assert budget.held_bytes == 0


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


# Loads a small generation, after which all is imported that loading needs, then a large one, and
# prints how much anonymous memory that took at its most and in the end.
LOADING = """
import json, sys, threading
from pathlib import Path
from tests.index_service.catalogue import open_shard

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith("RssAnon")]
    return 1024 * int(line.split()[1])

def watch():
    while not ended.wait(0.001):
        seen.append(anonymous())

shard = open_shard(Path(sys.argv[1]))
shard.load(1)
seen, ended = [anonymous()], threading.Event()
watching = threading.Thread(target=watch)
watching.start()
shard.load(2)
ended.set()
watching.join()
seen.append(anonymous())
print(json.dumps({"peak": max(seen) - seen[0], "kept": seen[-1] - seen[0]}))
"""

ITEMS = 40_000
MANY_VALUES = {
    "distinct keywords": lambda row: {"sku": f"sku-{row * 7919 % ITEMS:012d}"},
    "three keywords": lambda row: {
        "sku": f"{row:x}",
        "seller": f"seller {row % 9_000}",
        "brand": f"brand {row % 90}",
    },
    "lists": lambda row: {"tags": [f"{row * 5 + place:x}" for place in range(5)]},
    "short lists of few": lambda row: {"tags": [chr(97 + (row + k) % 20) for k in range(8)]},
}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", MANY_VALUES)
def test_loading_takes_no_more_than_was_estimated(tmp_path, kind):
    rng = np.random.default_rng(0)
    for count in (500, ITEMS):
        attributes = [MANY_VALUES[kind](row) for row in range(count)]
        catalogue = Catalogue(random_units(rng, count, 8), random_units(rng, 4, 8), attributes)
        build(catalogue, tmp_path, m=4, ef_construction=8, required_recall=0.1)
    done = subprocess.run(
        [sys.executable, "-c", LOADING, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    needed = needed_bytes(manifest_of(tmp_path, 2), 0, 0)
    # The rows' own share is what any attributes come on top of.
    assert ITEMS * 20 < figures["peak"] <= needed, (figures, needed)
    assert needed <= 4 * figures["peak"], (figures, needed)


def test_remembered_filters_are_forgotten_where_they_are_large():
    recent = RecentMatches(3)
    small = [Equals("brand", str(number)) for number in range(4)]
    for tree in small:
        recent.put(tree, tree)
    assert [recent.get(tree) for tree in small] == [None, *small[1:]]
    large = [OneOf("sku", (str(number) * 1_500_000,)) for number in range(4)]
    for tree in large:
        recent.put(tree, tree)
    # Two of 1.5 MB each fit into 4 MiB.
    assert [recent.get(tree) for tree in large] == [None, None, *large[2:]]
    huge = OneOf("sku", ("x" * 5_000_000,))
    recent.put(huge, huge)
    assert recent.get(huge) is None
    recent.put(small[0], small[0])
    assert recent.get(small[0]) is small[0]
