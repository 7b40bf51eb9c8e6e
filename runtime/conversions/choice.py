"""Which engine serves a GGUF file: llama.cpp, or ONNX Runtime with a conversion of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from spillover.models.onnx_folder import is_onnx
from spillover.runtime.conversions.record import (
    MAX_DEATHS,
    Comparison,
    Conversion,
    SourceNote,
    comparison_key,
)
from spillover.runtime.conversions.store import ConversionStore, fresh_note
from spillover.runtime.files.json_file import MeasurementStore
from spillover.runtime.fit.context_fit import MIN_PARALLEL
from spillover.runtime.machine.device import available_memory, default_threads, gpu_names
from spillover.runtime.machine.llama_trial import llama_problem
from spillover.runtime.options import EngineOptions

WORTH = 1.05
"""ONNX Runtime serves if it is at least this many times as fast: it takes more memory."""
MIN_SOURCE_BYTES = 16 << 20
"""Smaller files are fast with either engine."""
_ROOM = 1.25
"""The memory that a conversion needs, as a multiple of its size on disk."""


class EngineChoice(Struct, frozen=True, kw_only=True):
    """What serves a model, and why."""

    engine: Literal["llama", "onnx"]
    reason: str
    """For the user, such as "a GPU was found"."""
    can_compare: bool = False
    """A conversion and a comparison of the engines are missing, and may change the choice."""
    conversion: Path | None = None
    """The folder that is served in place of the file."""
    llama_problem: str = ""
    """Why llama.cpp cannot run on this device; empty if it can."""
    warnings: tuple[str, ...] = ()
    """What the owner should know of the conversion, and settings without an effect."""


class Findings(Struct, frozen=True, kw_only=True):
    """What is known about a GGUF file on this device."""

    size_bytes: int
    note: SourceNote | None = None
    conversion: Conversion | None = None
    comparison: Comparison | None = None
    llama_problem: str = ""
    """Why llama.cpp cannot run on this device; empty if it can."""
    has_gpu: bool = False
    free_bytes: int = 1 << 62

    def folder(self, options: EngineOptions) -> Path | None:
        """Where the conversion is, if there is one."""
        if self.conversion is None or not self.conversion.files:
            return None
        return ConversionStore(options.cache_dir).folder_of(self.conversion.digest)


def choose_engine(
    path: Path, options: EngineOptions, most_bytes: int | None = None
) -> EngineChoice:
    """What serves the model at *path*, by what is known so far. Converts and measures nothing.
    *most_bytes*: memory that it may take; None: what the device has free."""
    if is_onnx(path):
        return EngineChoice(
            engine="onnx", reason="the model is an ONNX graph", warnings=_unheard_by_onnx(options)
        )
    found = look_up(path, options)
    if most_bytes is not None:
        found = replace(found, free_bytes=min(found.free_bytes, most_bytes))
    return decide(found, options)


def look_up(path: Path, options: EngineOptions) -> Findings:
    """Read what is known about the GGUF file *path*."""
    store = ConversionStore(options.cache_dir)
    note, fresh = store.note_of(path), fresh_note(path)
    conversion = store.find(note.digest) if note is not None and note.digest is not None else None
    comparison = None
    if conversion is not None:
        comparison = comparison_store(conversion.digest, options).read()
    return Findings(
        size_bytes=fresh.size_bytes if fresh is not None else 0,
        note=note,
        conversion=conversion,
        comparison=comparison,
        llama_problem=llama_problem(options.cache_dir),
        has_gpu=sys.platform == "darwin" or bool(gpu_names()),
        free_bytes=available_memory(),
    )


def comparison_store(digest: str, options: EngineOptions) -> MeasurementStore[Comparison]:
    """Where the comparison for this device and these options is kept."""
    key = comparison_key(digest, options.n_threads or default_threads())
    return MeasurementStore(options.cache_dir, key, Comparison)


def decide(found: Findings, options: EngineOptions) -> EngineChoice:
    """The choice, from what was found."""
    conversion, folder = found.conversion, found.folder(options)
    given_up = conversion.given_up if conversion is not None else ""
    refusal = _refusal(found)
    warnings = _unheard_by_llama(options)
    if given_up and options.engine == "onnx" and not found.llama_problem:
        return EngineChoice(engine="llama", reason=given_up, warnings=(given_up, *warnings))
    if options.engine == "onnx" or (options.engine == "auto" and found.llama_problem):
        problem = "" if folder is not None else given_up or refusal
        return EngineChoice(
            engine="onnx",
            reason=problem or _why_onnx(found, options),
            can_compare=folder is None and not problem,
            conversion=folder,
            llama_problem=found.llama_problem,
            warnings=(*_doubts(conversion), *_unheard_by_onnx(options)),
        )
    reason = _set_by_owner(found, options) or (conversion.fault if conversion is not None else "")
    if reason:
        return EngineChoice(
            engine="llama",
            reason=reason,
            llama_problem=found.llama_problem,
            warnings=warnings,
        )
    if conversion is None or conversion.fidelity is None or found.comparison is None:
        return EngineChoice(
            engine="llama",
            reason=refusal or "the engines have not been compared on this device yet",
            can_compare=not refusal,
            warnings=warnings,
        )
    engine, reason = _of_compared(found, conversion, found.comparison, options)
    if engine == "llama":
        return EngineChoice(engine=engine, reason=reason, warnings=warnings)
    return EngineChoice(engine=engine, reason=reason, conversion=folder)


def _of_compared(
    found: Findings, conversion: Conversion, comparison: Comparison, options: EngineOptions
) -> tuple[Literal["llama", "onnx"], str]:
    """The engine, and why."""
    n_parallel = options.n_parallel or MIN_PARALLEL
    gain = comparison.gain(n_parallel)
    speed = f"{gain:.2f} times as fast as llama.cpp with {n_parallel} answers at a time"
    needed = _ROOM * conversion.size_bytes
    if gain < WORTH:
        return "llama", f"ONNX Runtime is only {speed}"
    if options.n_ctx is not None and options.n_ctx > conversion.n_ctx:
        return "llama", (
            f"n_ctx is {options.n_ctx}, and the conversion holds {conversion.n_ctx} tokens"
        )
    if options.n_ctx is not None and options.n_ctx <= conversion.n_short:
        return "llama", (
            f"n_ctx is {options.n_ctx}, and the conversion has the rotary positions for more than "
            f"{conversion.n_short} tokens (LongRoPE)"
        )
    if found.free_bytes < needed:
        return "llama", (
            f"the conversion needs {needed / 2**20:.0f} MiB of memory, and "
            f"{found.free_bytes / 2**20:.0f} MiB are free"
        )
    return "onnx", f"ONNX Runtime is {speed}"


def _why_onnx(found: Findings, options: EngineOptions) -> str:
    return "engine is onnx" if options.engine == "onnx" else found.llama_problem


def _doubts(conversion: Conversion | None) -> tuple[str, ...]:
    """What a conversion that is served unasked for would be refused for."""
    if conversion is None:
        return ()
    if conversion.fidelity is None:
        return (
            "the conversion for ONNX Runtime was not compared with the GGUF file: llama.cpp cannot "
            "run here, or there was not enough memory",
        )
    fault = conversion.fidelity.fault
    return (f"the conversion for ONNX Runtime is less true than the file: {fault}",) * bool(fault)


def _unheard_by_onnx(options: EngineOptions) -> tuple[str, ...]:
    """The owner's settings that would have decided for llama.cpp. (What loads the graph names
    kv_cache_type, draft_model and pooling itself.)"""
    settings = {
        "n_gpu_layers": (options.n_gpu_layers or 0) > 0,
        "second_layout": options.second_layout == "on",
    }
    names = [name for name, is_set in settings.items() if is_set]
    return tuple(f"{name} has no effect on ONNX Runtime" for name in names)


def _unheard_by_llama(options: EngineOptions) -> tuple[str, ...]:
    if options.execution_provider in ("auto", "cpu"):
        return ()
    return ("execution_provider has no effect on llama.cpp, which serves this file",)


def _set_by_owner(found: Findings, options: EngineOptions) -> str:
    """Why llama.cpp serves whatever was measured; empty if nothing says so."""
    reasons = {
        "engine is llama": options.engine == "llama",
        "deterministic excludes what is chosen by a measurement": options.deterministic,
        "a GPU was found": found.has_gpu and options.n_gpu_layers != 0,
        "n_gpu_layers is for llama.cpp": (options.n_gpu_layers or 0) > 0,
        f"kv_cache_type {options.kv_cache_type} is for llama.cpp": options.kv_cache_type
        not in (None, "f16"),
        "second_layout is for llama.cpp": options.second_layout == "on",
        "draft_model is for llama.cpp": options.draft_model is not None,
        f"pooling {options.pooling} is for vectors, which llama.cpp gives": options.pooling
        != "auto",
        "conversion_cache_mb is 0": options.conversion_cache_mb == 0,
        "the file is small enough for either": found.size_bytes < MIN_SOURCE_BYTES,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _refusal(found: Findings) -> str:
    """Why nobody tries to convert and compare the file; empty where it may be tried."""
    note = found.note
    if note is None:
        return ""
    if note.refusal and found.conversion is None:
        return note.refusal
    if note.n_died >= MAX_DEATHS:
        return (
            f"{note.n_died} tries to convert the file and to compare the engines have ended "
            f"without a result (`spillover engines {note.path} --again` tries again)"
        )
    return ""
