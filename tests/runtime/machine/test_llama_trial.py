"""A llama.cpp that was compiled for another processor: it is named, and nothing dies of it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from spillover.models.catalogue import default_model
from spillover.runtime.conversions.choice import choose_engine
from spillover.runtime.errors import ModelError
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.machine import llama_trial
from spillover.runtime.machine.ggml_devices import devices
from spillover.runtime.machine.instructions import missing_instructions, processor_flags
from spillover.runtime.machine.llama_trial import (
    NOT_INSTALLED,
    find_library,
    llama_problem,
    try_llama,
)
from spillover.runtime.machine.system_files import SystemFiles
from spillover.runtime.options import EngineOptions
from tests.runtime.machine.trees import jetson_orin_nano, laptop

Build = Callable[[str], Path]

_LIBRARY = """
#include <stdio.h>
#include <stdlib.h>
void llama_backend_init(void) { FILE *f = fopen(getenv("STARTS"), "a"); fputc('x', f); fclose(f); }
int llama_supports_gpu_offload(void) { return 0; }
const char *llama_print_system_info(void) { %s }
"""

ILLEGAL = "__builtin_trap(); return 0;"
COMPILED = 'return "CPU : AVX = 1 | AVX512 = 1 | AMX_INT8 = 1 | SVE = 0 | OPENMP = 1 | ";'


@pytest.fixture
def starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a letter for each process that has loaded the library."""
    monkeypatch.setenv("STARTS", str(tmp_path / "starts"))
    return tmp_path / "starts"


@pytest.fixture
def build(tmp_path: Path, starts: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Install a library whose system info has this body."""

    def installed(body: str) -> Path:
        library = tmp_path / "lib" / "libllama.so"
        library.parent.mkdir(exist_ok=True)
        command = [os.environ.get("CC", "cc"), "-shared", "-fPIC", "-x", "c", "-", "-o"]
        command.append(str(library))
        subprocess.run(command, input=_LIBRARY % body, text=True, check=True, timeout=60)
        monkeypatch.setattr(llama_trial, "find_library", lambda: library)
        monkeypatch.setattr(llama_trial, "has_llama", lambda: True)
        return library

    return installed


def test_instructions_that_the_processor_lacks_are_named(build: Build, tmp_path: Path) -> None:
    flags = processor_flags(laptop(tmp_path / "laptop"))
    problem = try_llama(build(COMPILED), flags).problem
    assert problem.startswith("llama.cpp was compiled with AVX512, AMX_INT8, which this processor")
    assert "engine = onnx" in problem


def test_a_child_that_dies_of_an_illegal_instruction_is_understood(
    build: Build, tmp_path: Path
) -> None:
    flags = processor_flags(laptop(tmp_path / "laptop"))
    problem = try_llama(build(ILLEGAL), flags).problem
    assert problem.startswith("llama.cpp uses instructions that this processor lacks, such as AVX2")


def test_each_library_is_tried_once(build: Build, starts: Path, tmp_path: Path) -> None:
    library = build(ILLEGAL)
    for _ in range(2):
        assert "instructions" in llama_problem(tmp_path / "cache")
    assert starts.read_text() == "x"
    os.utime(library, (1, 1))  # another file
    assert "instructions" in llama_problem(tmp_path / "cache")
    assert starts.read_text() == "xx"


def test_what_may_pass_is_tried_again(build: Build, starts: Path, tmp_path: Path) -> None:
    build("exit(3);")  # as when a library of the system is missing
    for _ in range(2):
        assert "cannot be loaded" in llama_problem(tmp_path / "cache")
    assert starts.read_text() == "xx"


def test_onnx_runtime_takes_the_place_of_such_a_library(build: Build, tmp_path: Path) -> None:
    build(ILLEGAL)
    path = Path(default_model().path)
    choice = choose_engine(path, EngineOptions(cache_dir=tmp_path))
    assert choice.engine == "onnx"
    assert choice.can_compare
    assert "instructions that this processor lacks" in choice.reason
    options = EngineOptions(cache_dir=tmp_path, engine="llama")
    with LocalEngine(path, options) as engine, pytest.raises(ModelError, match="instructions"):
        engine.wait_ready(60)
    assert engine.status().n_restarts == 0


def test_what_is_installed_here_can_run(tmp_path: Path) -> None:
    if find_library() is None:
        assert llama_problem(tmp_path) == NOT_INSTALLED
        return
    assert llama_problem(tmp_path) == ""


def test_only_instructions_that_are_known_and_on_count(tmp_path: Path) -> None:
    arm = processor_flags(jetson_orin_nano(tmp_path))
    info = "CPU : NEON = 1 | DOTPROD = 1 | MATMUL_INT8 = 1 | SVE = 0 | NEW_THING = 1 | "
    assert missing_instructions(info, arm) == ("MATMUL_INT8",)
    assert missing_instructions(info, processor_flags(SystemFiles(tmp_path / "none"))) == ()


def test_the_installed_library_tells_of_its_devices() -> None:
    """Its folder has "llama" in its name, too: the libraries beside it were looked for elsewhere,
    and no GPU was ever found."""
    library = find_library()
    if library is None:
        pytest.skip("llama.cpp is not installed")
    found = devices(library)
    assert any(not device["is_gpu"] and device["total_bytes"] for device in found)
