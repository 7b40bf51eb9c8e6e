"""Whether llama.cpp can run on this machine. It is tried in a child process, because a library with
instructions that the processor lacks ends the process which loads it."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
from msgspec import Struct

from spillover.models.libraries import has_llama
from spillover.runtime.files.json_file import MeasurementStore, fingerprint
from spillover.runtime.machine import ggml_devices
from spillover.runtime.machine.instructions import (
    missing_instructions,
    processor_flags,
    unknown_instructions,
)
from spillover.runtime.machine.system_files import SystemFiles

NOT_INSTALLED = "llama.cpp is not installed"

REMEDY = (
    "install it again on this machine (pip install --force-reinstall --no-cache-dir --no-binary "
    "llama-cpp-python llama-cpp-python), or set engine = onnx"
)
"""For a library that was compiled for another processor."""

_TIMEOUT_S = 60

_log = logging.getLogger(__name__)


class GpuMemory(Struct, frozen=True, kw_only=True):
    """A GPU that llama.cpp can use."""

    name: str
    free_bytes: int
    total_bytes: int
    shares_memory: bool = False
    """Of the host."""


class LlamaTrial(Struct, frozen=True, kw_only=True):
    """What a child process found."""

    problem: str = ""
    """Why llama.cpp cannot run here; empty if it can."""
    system_info: str = ""
    """The instructions that it was compiled with, as it names them."""
    offloads: bool = False
    """It was compiled for some kind of GPU."""
    gpus: tuple[GpuMemory, ...] = ()
    is_lasting: bool = True
    """False: another try may find something else, on a device with more time or libraries."""


def llama_problem(cache_dir: Path | None = None) -> str:
    """Why llama.cpp cannot run here, and what to do; empty if it can. See llama_trial()."""
    return llama_trial(cache_dir).problem


def llama_trial(cache_dir: Path | None = None) -> LlamaTrial:
    """What is known of the installed llama.cpp. It is tried once for each library, and then
    remembered in *cache_dir*."""
    if not has_llama():
        return LlamaTrial(problem=NOT_INSTALLED)
    library, flags = find_library(), processor_flags(SystemFiles())
    if library is None:
        return LlamaTrial()  # a worker will find out
    try:
        facts = [(path.name, path.stat()) for path in sorted(library.parent.iterdir())]
    except OSError:
        return LlamaTrial()
    sizes = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in facts]
    told = GpuMemory.__struct_fields__
    key = "llama-" + fingerprint(str(library), sizes, sorted(flags), told)
    store = MeasurementStore(cache_dir, key, LlamaTrial)
    known = store.read()
    if known is None:
        known = try_llama(library, flags)
        if known.is_lasting:
            store.write(known)
    return known


def find_library() -> Path | None:
    """The file of the installed llama.cpp; None if it is not where it usually is."""
    spec = importlib.util.find_spec("llama_cpp")
    folders = [Path(folder) / "lib" for folder in (spec and spec.submodule_search_locations) or ()]
    names = ("libllama.so", "libllama.dylib", "llama.dll")
    paths = [folder / name for folder in folders for name in names]
    return next((path for path in paths if path.is_file()), None)


def try_llama(library: Path, flags: frozenset[str]) -> LlamaTrial:
    """Load *library* in a child process, on a processor with *flags*."""
    try:
        child = subprocess.run(
            [sys.executable, "-I", "-S", ggml_devices.__file__, str(library)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},
            check=False,
        )
    except subprocess.TimeoutExpired:
        slow = f"loading llama.cpp takes more than {_TIMEOUT_S} s: {REMEDY}"
        return LlamaTrial(problem=slow, is_lasting=False)
    except OSError as error:  # nothing is known; a worker will find out
        _log.warning("llama.cpp could not be tried: %s", error)
        return LlamaTrial(is_lasting=False)
    if child.returncode == -getattr(signal, "SIGILL", 0):
        lacking = " or ".join(unknown_instructions(flags))
        hint = f", such as {lacking}" if lacking else ""
        return LlamaTrial(
            problem=f"llama.cpp uses instructions that this processor lacks{hint}: {REMEDY}"
        )
    try:
        found = msgspec.json.decode(child.stdout.splitlines()[-1], type=LlamaTrial)
    except (IndexError, msgspec.DecodeError):
        said = child.stderr.decode(errors="replace").strip().splitlines()[-1:]
        reason = said[0] if said else f"it ended with {child.returncode}"
        problem = f"llama.cpp cannot be loaded ({reason}): {REMEDY}"
        return LlamaTrial(problem=problem, is_lasting=False)
    missing = ", ".join(missing_instructions(found.system_info, flags))
    if not missing:
        return found
    problem = f"llama.cpp was compiled with {missing}, which this processor lacks: {REMEDY}"
    return msgspec.structs.replace(found, problem=problem)
