"""AMX is left out exactly where the compiler would compile it wrongly."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLAGS = "-mno-amx-tile -mno-amx-int8 -mno-amx-bf16"
AMX = "#define __AMX_TILE__ 1"


def flags_with(folder: Path, *macros: str, works: bool = True, **environment: str) -> list[str]:
    """CFLAGS and CXXFLAGS after the script ran with a compiler that defines *macros*."""
    compiler = folder / "cc"
    text = "\n".join(macros)
    compiler.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {0 if works else 1}\n")
    compiler.chmod(0o755)
    script = "set -euo pipefail; source .ci/compile-flags; set_compile_flags; "
    script += 'printf "%s|%s" "${CFLAGS:-}" "${CXXFLAGS:-}"'
    path = f"{folder}:{os.environ['PATH']}"
    ended = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
        env={"PATH": path, **environment},
    )  # fmt: skip
    return [flags.strip() for flags in ended.stdout.split("|")]


def gnu(major: int) -> str:
    return f"#define __GNUC__ {major}"


@pytest.mark.parametrize("major", [11, 12])
def test_old_gcc_on_a_cpu_with_amx_gets_the_flags(tmp_path: Path, major: int) -> None:
    assert flags_with(tmp_path, gnu(major), AMX) == [FLAGS, FLAGS]


@pytest.mark.parametrize(
    "macros",
    [
        (gnu(13), AMX),
        (gnu(14), AMX),
        (gnu(12),),
        (gnu(12), "#define __AVX512F__ 1"),
        ("#define __clang__ 1", gnu(4), AMX),
    ],
)
def test_others_compile_for_the_whole_cpu(tmp_path: Path, macros: tuple[str, ...]) -> None:
    assert flags_with(tmp_path, *macros) == ["", ""]


def test_flags_that_were_set_stay(tmp_path: Path) -> None:
    flags = flags_with(tmp_path, gnu(12), AMX, CFLAGS="-O1", CXXFLAGS="-g")
    assert flags == [f"-O1 {FLAGS}", f"-g {FLAGS}"]


def test_a_compiler_of_another_name_is_asked(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    flags_with(other, gnu(12), AMX)
    assert flags_with(tmp_path, gnu(13), AMX, CC=str(other / "cc")) == [FLAGS, FLAGS]


def test_without_a_working_compiler_nothing_is_set(tmp_path: Path) -> None:
    assert flags_with(tmp_path, works=False) == ["", ""]
