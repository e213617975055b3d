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
        return [platform.machine()]
    for line in text.splitlines():
        if line.startswith(("flags", "Features")):
            present = set(line.split())
            return [feature for feature in CPU_FEATURES if feature in present]
    return [platform.machine()]
