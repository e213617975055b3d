"""Which instruction sets a processor offers, as far as they matter for INT8."""

import platform
from pathlib import Path

CPU_FEATURES = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm",
)  # fmt: skip


def cpu_features() -> list[str]:
    """Return the features of this processor that matter for INT8; its architecture if unknown."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    return features_in(text) or [platform.machine()]


def features_in(cpuinfo: str) -> list[str]:
    """Return the features that matter for INT8 of the first processor in /proc/cpuinfo's text.

    >>> features_in("flags: fpu avx2 avx512_vnni")
    ['avx2', 'avx512_vnni']
    """
    for line in cpuinfo.splitlines():
        # x86 calls them flags, arm64 Features.
        if line.startswith(("flags", "Features")):
            present = set(line.partition(":")[2].split())
            return [feature for feature in CPU_FEATURES if feature in present]
    return []
