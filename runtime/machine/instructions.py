"""The instructions that the processor has, and those that llama.cpp was compiled with."""

from __future__ import annotations

from spillover.runtime.machine.system_files import SystemFiles

_FLAGS = {
    "SSE3": "pni",
    "SSSE3": "ssse3",
    "AVX": "avx",
    "AVX_VNNI": "avx_vnni",
    "AVX2": "avx2",
    "F16C": "f16c",
    "FMA": "fma",
    "BMI2": "bmi2",
    "AVX512": "avx512f",
    "AVX512_VBMI": "avx512vbmi",
    "AVX512_VNNI": "avx512_vnni",
    "AVX512_BF16": "avx512_bf16",
    "AMX_INT8": "amx_int8",
    "FP16_VA": "asimdhp",
    "DOTPROD": "asimddp",
    "MATMUL_INT8": "i8mm",
    "SVE": "sve",
    "SVE2": "sve2",
    "SME": "sme",
}
"""Of each name in llama.cpp's system info the kernel's name for it."""


def processor_flags(files: SystemFiles) -> frozenset[str]:
    """The kernel's names of what the processor has; empty where the system does not tell."""
    found = files.field("proc/cpuinfo", "flags") or files.field("proc/cpuinfo", "Features")
    return frozenset((found or "").split())


def missing_instructions(system_info: str, flags: frozenset[str]) -> tuple[str, ...]:
    """What llama.cpp was compiled with, by its *system_info* ("CPU : AVX2 = 1 | …"), but a
    processor with *flags* lacks."""
    if not flags:
        return ()
    parts = (part.partition("=") for part in system_info.replace("CPU :", "|").split("|"))
    compiled = [name.strip() for name, _, value in parts if value.strip() == "1"]
    return tuple(name for name in compiled if name in _FLAGS and _FLAGS[name] not in flags)


def unknown_instructions(flags: frozenset[str]) -> tuple[str, ...]:
    """Those that programs are often compiled with, but a processor with *flags* lacks."""
    is_x86 = "pni" in flags
    common = ("AVX", "AVX2", "F16C", "FMA", "BMI2", "AVX512") if is_x86 else ("DOTPROD", "SVE")
    return tuple(name for name in common if flags and _FLAGS[name] not in flags)
