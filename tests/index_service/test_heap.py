import platform
import subprocess
import sys

import pytest

# Frees 64 MiB of small pieces below one that stays, which a heap keeps until it is told not to.
FREEING = """
from pathlib import Path
from index_service.heap import give_back_freed

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    [line] = [line for line in lines if line.startswith("RssAnon")]
    return int(line.split()[1]) // 1024

pieces = [bytes(1024) for _ in range(65_536)]
del pieces[:-1]
before = anonymous()
give_back_freed()
print(before - anonymous())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep less")
def test_what_was_freed_goes_back_to_the_system():
    done = subprocess.run(
        [sys.executable, "-c", FREEING], capture_output=True, text=True, timeout=60, check=True
    )
    assert int(done.stdout) > 48
