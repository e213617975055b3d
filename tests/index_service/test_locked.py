"""Files that stay in memory."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from index_service.generation_memory import GenerationMemory
from index_service.locked import LockedFile
from index_service.memory import MemoryBudget, needed_bytes
from rpc.errors import ResourceExhausted
from tests.index_service.catalogue import Catalogue, build, manifest_of, open_shard, random_units

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# Locks a file that everybody may read, in a process that may lock nothing.
REFUSED = """
import os, resource, sys
from pathlib import Path
from index_service.locked import LockedFile
resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
if os.geteuid() == 0:
    os.setuid(65534)
try:
    LockedFile(Path(sys.argv[1]))
except OSError as exc:
    print(exc)
"""


def locked_kib():
    lines = Path("/proc/self/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith("VmLck")]
    return int(line.split()[1])


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("locked")
    rng = np.random.default_rng(0)
    catalogue = Catalogue(random_units(rng, 400), random_units(rng, 4))
    for _ in range(3):
        build(catalogue, folder)
    return folder


@pytest.fixture
def may_lock(tmp_path):
    (tmp_path / "page").write_bytes(b"x")
    try:
        LockedFile(tmp_path / "page")
    except OSError as exc:
        pytest.skip(f"this process may lock nothing: {exc}")


def test_a_file_stays_in_memory_as_long_as_it_is_wanted(tmp_path, may_lock):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(40_000))
    before = locked_kib()
    locked = LockedFile(path)
    assert locked_kib() - before == 40
    del locked
    gc.collect()
    assert locked_kib() == before


def test_a_process_that_may_not_is_told_so():
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, os.path.realpath(sys.executable)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert os.path.realpath(sys.executable) in done.stdout


def test_graph_and_ids_are_locked_where_there_is_room_and_counted(home, may_lock):
    manifest = manifest_of(home)
    files = manifest.shards[0].files
    locked_bytes = files["graph.faiss"].bytes + files["item_ids.arrow"].bytes
    needed = needed_bytes(manifest, 0, 128)
    before = locked_kib()
    budget = MemoryBudget(needed + locked_bytes * 3 // 2)
    shard = open_shard(home, budget=budget)
    shard.load(1)
    assert shard.locked_bytes(1) == locked_bytes
    assert budget.held_bytes == needed + locked_bytes
    assert locked_kib() > before
    shard.release(1)
    assert locked_kib() == before
    assert budget.held_bytes == 0


def test_without_room_they_are_mapped_and_nothing_else_refused(home):
    needed = needed_bytes(manifest_of(home), 0, 128)
    budget = MemoryBudget(needed + 1_000)
    shard = open_shard(home, budget=budget)
    shard.load(1)
    assert shard.locked_bytes(1) == 0
    assert budget.held_bytes == needed


def test_what_could_not_make_room_stays_locked(home, may_lock):
    files = manifest_of(home).shards[0].files
    locked_bytes = files["graph.faiss"].bytes + files["item_ids.arrow"].bytes
    budget = MemoryBudget(needed_bytes(manifest_of(home), 0, 128) + 2 * locked_bytes)
    memory = GenerationMemory(budget, lock_files=True)
    shard_files = home / "generations" / "000001" / "shard-0000"
    assert memory.lock(1, [shard_files / "graph.faiss", shard_files / "item_ids.arrow"])
    with pytest.raises(ResourceExhausted, match="generation 2 needs"):
        memory.reserve(2, 10**12)
    assert memory.locked(1) == locked_bytes


def test_what_is_locked_gives_way_to_another_generation(home, may_lock):
    manifest = manifest_of(home)
    files = manifest.shards[0].files
    locked_bytes = files["graph.faiss"].bytes + files["item_ids.arrow"].bytes
    needed = needed_bytes(manifest, 0, 128)
    # Room for two generations, or for one with its graph locked and half as much beside it.
    budget = MemoryBudget(max(2 * needed, needed + 2 * locked_bytes))
    shard = open_shard(home, budget=budget)
    shard.load(1)
    assert shard.locked_bytes(1) == locked_bytes
    shard.load(2)
    assert shard.locked_bytes(1) == 0
    assert budget.held_bytes == 2 * needed
    with pytest.raises(ResourceExhausted, match="generation 3 needs"):
        shard.load(3)
