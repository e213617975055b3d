"""What /proc/cpuinfo says on processors that this is not."""

import platform
from pathlib import Path

import pytest

from rpc.cpu import cpu_features, features_in

XEON = """\
processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Platinum 8488C
flags\t\t: fpu vme sse4_2 avx avx2 avx512f avx512dq avx_vnni avx512_vnni amx_bf16 amx_tile amx_int8
vmx flags\t: vnmi preemption_timer
bugs\t\t: spectre_v1

processor\t: 1
flags\t\t: fpu sse4_2
"""
EPYC = """\
processor\t: 0
vendor_id\t: AuthenticAMD
flags\t\t: fpu vme sse4_2 avx avx2 bmi2 vaes
"""
GRAVITON = """\
processor\t: 0
BogoMIPS\t: 2100.00
Features\t: fp asimd evtstrm aes atomics asimdhp cpuid asimdrdm asimddp sha512 sve i8mm bf16
CPU implementer\t: 0x41
"""
CORTEX_A72 = """\
processor\t: 0
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid
"""


@pytest.mark.parametrize(
    ("cpuinfo", "features"),
    [
        (XEON, ["avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8"]),
        (EPYC, ["avx2"]),
        (GRAVITON, ["asimd", "asimddp", "i8mm"]),
        (CORTEX_A72, ["asimd"]),
        ("processor\t: 0\nisa\t\t: rv64imafdc\n", []),
        ("", []),
    ],
    ids=["xeon", "epyc", "graviton", "cortex-a72", "riscv", "nothing"],
)
def test_features_are_read_as_x86_and_arm64_write_them(cpuinfo, features):
    assert features_in(cpuinfo) == features


@pytest.mark.parametrize("cpuinfo", ["", "flags\t\t: fpu sse4_2\n"])
def test_a_processor_without_any_is_known_by_its_architecture(monkeypatch, cpuinfo):
    monkeypatch.setattr(Path, "read_text", lambda self: cpuinfo)
    assert cpu_features() == [platform.machine()]


def test_a_system_without_cpuinfo_is_known_by_its_architecture(monkeypatch):
    def missing(self):
        raise FileNotFoundError(self)

    monkeypatch.setattr(Path, "read_text", missing)
    assert cpu_features() == [platform.machine()]
