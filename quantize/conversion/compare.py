"""Finds out which engine should serve a GGUF file: converts it, checks the conversion, measures."""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import msgspec

from spillover.models.file_lock import try_lock
from spillover.quantize.child import Progress
from spillover.quantize.conversion.convert import convert, needed_bytes
from spillover.quantize.conversion.ends import adopt_ends
from spillover.quantize.conversion.errors import NotNow
from spillover.quantize.conversion.fidelity import (
    LONGEST_WINDOW,
    N_BEYOND,
    differs,
    fidelity_of,
)
from spillover.quantize.conversion.rates import compare_rates
from spillover.quantize.onnx_export.errors import ExportError
from spillover.runtime.backend import Backend
from spillover.runtime.conversions.choice import comparison_store
from spillover.runtime.conversions.record import (
    Conversion,
    Fidelity,
    SourceNote,
)
from spillover.runtime.conversions.store import (
    ConversionStore,
    describe_files,
    fresh_note,
    is_intact,
    is_unchanged,
)
from spillover.runtime.errors import ModelError, SpilloverError
from spillover.runtime.machine.device import available_memory
from spillover.runtime.machine.llama_trial import llama_problem
from spillover.runtime.options import EngineOptions

_N_CTX, _N_SEQ = 1_024, 4
"""The contexts in which the engines are compared."""
_SOME_CELLS = 256
"""With so many cells more than a model was first trained for, llama.cpp uses its rotary positions
for long texts (LongRoPE), as the conversion does."""
_PACKED = 2.0
"""Memory of a loaded conversion, as a multiple of its size: ONNX Runtime packs the weights anew."""


def prepare(
    path: Path,
    options: EngineOptions,
    progress: Progress,
    *,
    measures: bool,
    again: bool = False,
    waits: bool = False,
) -> None:
    """Convert the GGUF file *path* unless it was, and compare the engines as far as that was not
    done for this device. *measures*: their speed, too. *again*: forget what is known of it.
    *waits*: until no other process converts.

    Raises ExportError for a file that cannot be converted, which is remembered, NotNow, and where
    nothing can be written QuantizeError or OSError.
    """
    store = ConversionStore(options.cache_dir)
    store.claim()
    with ExitStack() as stack:
        is_ours = stack.enter_context(try_lock(store.lock))
        if not is_ours and waits:
            progress("waiting for another conversion", 0, 1)
            is_ours = stack.enter_context(try_lock(store.lock, waits=True))
        if not is_ours:
            raise NotNow("another process converts a model at present: try again later")
        store.sweep()
        fresh = fresh_note(path)
        if fresh is None:
            raise ExportError(f"there is no file {path}: check the path")
        with _remembering(store, store.note_of(path) or fresh) as note:
            work = _Work(path, options, store, progress, note)
            conversion = work.converted(again=again)
            if not llama_problem(options.cache_dir):
                conversion = work.compared(conversion, measures=measures, again=again)
            if conversion.fault and conversion.files and not work.serves_anyway:
                store.empty(conversion)


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

    def check_unchanged(self) -> None:
        """Raises NotNow where the file is another one by now: what was made is not its own."""
        if not is_unchanged(self._note):
            raise NotNow(f"{self._note.path} was changed meanwhile: the next start tries again")


@contextmanager
def _remembering(store: ConversionStore, known: SourceNote) -> Generator[_Note]:
    """Note that a try has begun, and how it has ended. It counts as one without a result if this
    process dies, or meets what nobody foresaw: the next one would, too."""
    note = _Note(store, known)
    note.write(n_died=min(known.n_died + 1, 1_000))
    try:
        yield note
    except ExportError as error:
        note.write(refusal=str(error), n_died=0)
        raise
    except (SpilloverError, OSError, KeyboardInterrupt, SystemExit):
        note.write(n_died=0)
        raise
    note.write(refusal="", n_died=0)


class _Work:
    """What is done about one file, under the store's lock."""

    def __init__(
        self,
        path: Path,
        options: EngineOptions,
        store: ConversionStore,
        progress: Progress,
        note: _Note,
    ) -> None:
        self._path, self._options, self._store = path, options, store
        self._progress, self._note = progress, note

    @property
    def serves_anyway(self) -> bool:
        """Whether the conversion serves, however true it is."""
        return self._options.engine == "onnx" or bool(llama_problem(self._options.cache_dir))

    def converted(self, *, again: bool) -> Conversion:
        """The conversion that is there, if it is intact, or a new one; or that it is given up."""
        n_bytes = needed_bytes(self._path)
        digest = self._digest()
        folder = self._store.folder_of(digest)
        if again:
            self._store.discard(folder)
        found = self._store.find(digest)
        if found is not None and found.files and is_intact(folder):
            return found
        if found is not None and not found.files and (found.given_up or not self.serves_anyway):
            return found
        if not self.serves_anyway:
            _check_memory(self._path, n_bytes)
        return convert(
            self._path,
            digest,
            self._store,
            int(self._options.conversion_cache_mb * 2**20),
            lambda n, n_all: self._progress("converting", n, n_all),
            self._note.check_unchanged,
        )

    def _digest(self) -> str:
        if self._note.digest is None:
            self._progress("reading the file", 0, 1)
            with self._path.open("rb") as file:
                self._note.write(digest=hashlib.file_digest(file, "sha256").hexdigest())
            self._store.sweep()  # what was made of its last content
        digest = self._note.digest
        assert digest is not None, "it was written"
        return digest

    def compared(self, conversion: Conversion, *, measures: bool, again: bool) -> Conversion:
        """The conversion with what is missing of the comparison."""
        results = comparison_store(conversion.digest, self._options)
        is_missing = measures and (again or results.read() is None)
        if conversion.fault or not (conversion.fidelity is None or is_missing):
            return conversion
        _check_memory(self._path, conversion.size_bytes)
        self._progress("comparing the engines", 0, 3)
        with closing(_llama(self._path, self._options, conversion)) as llama:
            folder = self._store.folder_of(conversion.digest)
            if conversion.fidelity is None and adopt_ends(llama, folder):
                conversion = msgspec.structs.replace(conversion, files=describe_files(folder))
                self._store.write_record(conversion)
            self._progress("comparing the engines", 1, 3)
            try:
                onnx = _onnx(folder, self._options, conversion)
            except ModelError as error:
                return self._judged(conversion, differs(f"it does not load: {error}"))
            with closing(onnx):
                if conversion.fidelity is None:
                    fidelity = fidelity_of(llama, onnx, conversion.window)
                    conversion = self._judged(conversion, fidelity)
                self._progress("comparing the engines", 2, 3)
                if is_missing and not conversion.fault:
                    results.write(compare_rates(llama, onnx))
        self._progress("comparing the engines", 3, 3)
        return conversion

    def _judged(self, conversion: Conversion, fidelity: Fidelity) -> Conversion:
        self._note.check_unchanged()
        conversion = msgspec.structs.replace(conversion, fidelity=fidelity)
        self._store.write_record(conversion)
        return conversion


def _llama(path: Path, options: EngineOptions, conversion: Conversion) -> Backend:
    from spillover.runtime.llama.opening.opening import open_gguf  # slow

    return open_gguf(path, _small(options, conversion)).backend


def _onnx(folder: Path, options: EngineOptions, conversion: Conversion) -> Backend:
    from spillover.runtime.onnx.opening import open_onnx  # slow

    return open_onnx(folder, _small(options, conversion)).backend


def _small(options: EngineOptions, conversion: Conversion) -> EngineOptions:
    """Contexts that are large enough for the comparison."""
    n_beyond = conversion.window + N_BEYOND if conversion.window <= LONGEST_WINDOW else 0
    n_ctx = min(max(_N_CTX, n_beyond), conversion.n_ctx)
    return msgspec.structs.replace(
        options,
        n_ctx=n_ctx,
        n_kv=max(_N_SEQ * n_ctx, conversion.n_short + _SOME_CELLS),
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
