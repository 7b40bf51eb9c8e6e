"""Finds out which engine should serve a GGUF file: converts it, checks the conversion, measures."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from spillover.models.file_lock import try_lock
from spillover.quantize.child import Progress
from spillover.quantize.conversion.convert import convert, needed_bytes
from spillover.quantize.conversion.ends import adopt_ends
from spillover.quantize.conversion.errors import NotNow
from spillover.quantize.conversion.fidelity import fidelity_of
from spillover.quantize.conversion.rates import compare_rates
from spillover.quantize.onnx_export.errors import ExportError
from spillover.runtime.backend import Backend
from spillover.runtime.conversions.choice import comparison_store
from spillover.runtime.conversions.record import EXPORTER, Conversion, Fidelity, SourceNote
from spillover.runtime.conversions.store import (
    ConversionStore,
    describe_files,
    fresh_note,
    is_intact,
)
from spillover.runtime.errors import ModelError
from spillover.runtime.machine.device import available_memory
from spillover.runtime.machine.llama_trial import llama_problem
from spillover.runtime.options import EngineOptions

_N_CTX, _N_SEQ = 1_024, 4
"""The contexts in which the engines are compared."""
_SOME_CELLS = 256
"""With more cells than the 4,096 for which Phi was first trained, llama.cpp uses its rotary factors
for long texts (LongRoPE), as the conversion does."""
_PACKED = 2.0
"""Memory of a loaded conversion, as a multiple of its size: ONNX Runtime packs the weights anew."""


def prepare(path: Path, options: EngineOptions, progress: Progress, *, measures: bool) -> None:
    """Convert the GGUF file *path* unless it was, and compare the engines as far as that was not
    done for this device. *measures*: their speed, too.

    Raises ExportError for a file that cannot be converted, which is remembered, NotNow, and where
    nothing can be written QuantizeError or OSError.
    """
    store = ConversionStore(options.cache_dir)
    with try_lock(store.lock) as is_ours:
        if not is_ours:
            raise NotNow("another process converts a model at present: try again later")
        store.sweep()
        fresh = fresh_note(path)
        if fresh is None:
            raise ExportError(f"there is no file {path}: check the path")
        with _remembering(store, store.note_of(path) or fresh) as note:
            conversion = _converted(path, note, store, options, progress)
            if not llama_problem(options.cache_dir):
                _compare(path, conversion, store, options, progress, measures=measures)


class _Note:
    """The note of a file, which grows during the work."""

    def __init__(self, store: ConversionStore, note: SourceNote) -> None:
        self._store, self._note = store, note

    @property
    def digest(self) -> str | None:
        return self._note.digest

    def write(self, **facts: object) -> None:
        self._note = msgspec.structs.replace(self._note, **facts)
        self._store.write_note(self._note)


@contextmanager
def _remembering(store: ConversionStore, known: SourceNote) -> Generator[_Note]:
    """Note that a try has begun, and how it has ended, unless this process dies."""
    note = _Note(store, known)
    note.write(n_died=min(known.n_died + 1, 1_000))
    try:
        yield note
    except ExportError as error:
        note.write(refusal=str(error), refused_by=EXPORTER)
        raise
    else:
        note.write(refusal="", refused_by=0)
    finally:
        note.write(n_died=0)


def _converted(
    path: Path, note: _Note, store: ConversionStore, options: EngineOptions, progress: Progress
) -> Conversion:
    """The conversion that is there, if it is intact, or a new one."""
    n_bytes = needed_bytes(path)
    if note.digest is None:
        progress("reading the file", 0, 1)
        with path.open("rb") as file:
            note.write(digest=hashlib.file_digest(file, "sha256").hexdigest())
    digest = note.digest
    assert digest is not None, "it was written"
    found = store.find(digest)
    if found is not None and is_intact(store.folder_of(digest)):
        return found
    if options.engine == "auto" and not llama_problem(options.cache_dir):
        _check_memory(path, n_bytes)
    limit_bytes = int(options.conversion_cache_mb * 2**20)
    return convert(
        path, digest, store, limit_bytes, lambda n, n_all: progress("converting", n, n_all)
    )


def _compare(
    path: Path,
    conversion: Conversion,
    store: ConversionStore,
    options: EngineOptions,
    progress: Progress,
    *,
    measures: bool,
) -> None:
    """Fill in what is missing of the comparison."""
    results = comparison_store(conversion.digest, options)
    fidelity = conversion.fidelity
    is_missing = measures and results.read() is None
    if fidelity is not None and (fidelity.fault or not is_missing):
        return
    _check_memory(path, conversion.size_bytes)
    progress("comparing the engines", 0, 3)
    with closing(_llama(path, options, conversion.n_ctx)) as llama:
        folder = store.folder_of(conversion.digest)
        if fidelity is None and adopt_ends(llama, folder):
            conversion = msgspec.structs.replace(conversion, files=describe_files(folder))
            store.write_record(conversion)
        progress("comparing the engines", 1, 3)
        try:
            onnx = _onnx(folder, options, conversion.n_ctx)
        except ModelError as error:
            fault = Fidelity(divergence=0.0, n_positions=0, difference=f"it does not load: {error}")
            store.write_record(msgspec.structs.replace(conversion, fidelity=fault))
            return
        with closing(onnx):
            if fidelity is None:
                fidelity = fidelity_of(llama, onnx)
                store.write_record(msgspec.structs.replace(conversion, fidelity=fidelity))
            progress("comparing the engines", 2, 3)
            if is_missing and not fidelity.fault:
                results.write(compare_rates(llama, onnx))
    progress("comparing the engines", 3, 3)


def _llama(path: Path, options: EngineOptions, n_ctx: int) -> Backend:
    from spillover.runtime.llama.opening.opening import open_gguf  # slow

    return open_gguf(path, _small(options, n_ctx)).backend


def _onnx(folder: Path, options: EngineOptions, n_ctx: int) -> Backend:
    from spillover.runtime.onnx.opening import open_onnx  # slow

    return open_onnx(folder, _small(options, n_ctx)).backend


def _small(options: EngineOptions, n_ctx: int) -> EngineOptions:
    n_ctx = min(_N_CTX, n_ctx)
    return msgspec.structs.replace(
        options,
        n_ctx=n_ctx,
        n_kv=_N_SEQ * n_ctx + _SOME_CELLS,
        n_parallel=_N_SEQ,
        n_prefix_cached=0,
        adapt_threads=False,
    )


def _check_memory(path: Path, conversion_bytes: int) -> None:
    """Raises NotNow if both models do not fit beside what runs."""
    needed = path.stat().st_size + int(_PACKED * conversion_bytes)
    free = available_memory()
    if free < needed:
        raise NotNow(
            f"comparing the engines needs about {needed / 2**20:.0f} MiB of memory, and "
            f"{free / 2**20:.0f} MiB are free: close other programs, or use a smaller model"
        )
