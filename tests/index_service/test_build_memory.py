"""A build needs little more memory than the shard that it makes is large."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from index_service.build.generation import DEFAULT_M
from tests.index_service.catalogue import Catalogue, random_units

DIM = 64
ITEMS = 20_000

# Builds in one process a small shard, after which everything is loaded that any build needs, and a
# large one; prints by how much the large one raised what was resident, and how large it became.
SCRIPT = """
import json, sys
from pathlib import Path
from index_service.build import generation
from index_service.build.generation import BuildSettings, build_generation

def resident(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith(name)]
    return 1024 * int(line.split()[1])

generation.available_cores = lambda: 1
home = Path(sys.argv[1])
settings = BuildSettings(num_shards=1, ef_construction=16, required_recall=0.1)
build_generation(home / "small", home / "generations", settings)
before = resident("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
built = build_generation(home / "large", home / "generations", settings)
print(json.dumps({"peak": resident("VmHWM") - before, "shard": built.bytes}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_shard_is_built_in_less_than_twice_its_size(tmp_path):
    rng = np.random.default_rng(0)
    for name, count in (("small", 2_000), ("large", ITEMS)):
        attributes = [{"brand": f"brand {row % 50}", "price": row * 0.5} for row in range(count)]
        catalogue = Catalogue(random_units(rng, count, DIM), random_units(rng, 8, DIM), attributes)
        catalogue.write(tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        # glibc keeps freed blocks of up to 32 MiB; those of a real shard are larger and go back.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    # Vectors of 128 bytes, codes of 64, twice m links of 4.
    assert figures["shard"] >= ITEMS * (128 + 64 + 8 * DEFAULT_M)
    assert figures["peak"] <= 2 * figures["shard"], figures
