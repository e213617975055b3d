"""What all benchmarks share: percentiles, the machine's description, results on disk."""

import gc
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from rpc.cpu import cpu_features

RESULTS = Path(__file__).parent / "results"
P99_CALLS_MIN = 100
PACKAGES = ("grpcio", "protobuf", "numpy", "faiss-cpu", "onnxruntime", "tokenizers", "pyarrow")


def machine() -> dict[str, Any]:
    """Return where and with what figures are measured."""
    return {
        "commit": _commit(),
        "cpu": _cpu_lines("model name") or platform.processor(),
        "cpu_flags": cpu_features(),
        "cores": len(os.sched_getaffinity(0)),
        "load_at_start": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{package: _version(package) for package in PACKAGES},
        "measured_on": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which a share of the values lies (nearest rank).

    >>> percentile([4.0, 1.0, 3.0, 2.0], 0.5)
    2.0
    """
    ranked = sorted(values)
    return ranked[max(0, min(len(ranked) - 1, round(share * len(ranked)) - 1))]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return p50, p95 and p99, rounded to a tenth."""
    return {
        name: round(percentile(values, share), 1)
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
    }


def median(values: Sequence[float], digits: int = 1) -> float:
    """Return the median, rounded."""
    return round(statistics.median(values), digits)


def percentiles_us(rounds: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return medians of rounds' p50 and p95, and p99 of all calls where they are a hundred.

    >>> percentiles_us([[1.0, 2.0, 3.0], [5.0, 6.0, 7.0], [3.0, 4.0, 5.0]])
    {'calls': 9, 'p50_us': 4.0, 'p95_us': 5.0}
    """
    calls = [each for one in rounds for each in one]
    found: dict[str, float] = {"calls": len(calls)}
    for name, share in (("p50_us", 0.5), ("p95_us", 0.95)):
        found[name] = median([percentile(one, share) for one in rounds])
    if len(calls) >= P99_CALLS_MIN:
        found["p99_us"] = round(percentile(calls, 0.99), 1)
    return found


def anonymous_bytes(process: int | str = "self") -> int:
    """Return the resident memory of a process that no file stands behind."""
    gc.collect()
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    [kibibytes] = [int(line.split()[1]) for line in lines if line.startswith("RssAnon:")]
    return 1024 * kibibytes


def resident(process: int | str = "self") -> dict[str, int]:
    """Return the bytes that a process has in memory, its share of what it shares with others.

    "anonymous" leaves out what is read from files, and can be read again.
    """
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    parts = {
        name: 1024 * int(rest.split()[0]) for name, _, rest in (x.partition(":") for x in lines)
    }
    return {
        "resident_bytes": parts["Pss"],
        "anonymous_bytes": parts["Pss_Anon"] + parts["Pss_Shmem"],
    }


def resident_of(processes: Sequence[int]) -> dict[str, int]:
    """Return the same of processes and all their children together."""
    trees = [
        [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)] for pid in processes
    ]
    found = [resident(process.pid) for tree in trees for process in tree]
    return {
        kind: sum(each[kind] for each in found) for kind in ("resident_bytes", "anonymous_bytes")
    }


def write_result(name: str, figures: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Write figures as JSON and return where."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(figures, indent=2) + "\n")
    return path


def _commit() -> str:
    head = _output("git", "rev-parse", "--short", "HEAD")
    return head + ("+changes" if _output("git", "status", "--porcelain", "-uno") else "")


def _cpu_lines(key: str) -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    found = [line.partition(":")[2].strip() for line in lines if line.startswith(key)]
    return found[0] if found else ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
