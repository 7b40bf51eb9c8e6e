"""Writes the conversion of a GGUF file into the store: completely or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from spillover.models.at_path import part_names
from spillover.quantize.conversion.errors import NotNow
from spillover.quantize.conversion.weights import weights_difference
from spillover.quantize.new_file import flush_folder
from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.export import estimated_bytes, export, open_source
from spillover.quantize.onnx_export.graph.decoder import Progress
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.quantize.onnx_export.spec import ModelSpec
from spillover.quantize.onnx_export.split_source import SplitSource
from spillover.runtime.conversions.record import EXPORTER, Conversion
from spillover.runtime.conversions.store import RECORD, ConversionStore, describe_files
from spillover.runtime.files.json_file import write_json

_OPTIONS = ExportOptions(weights="faithful")
_BESIDE_BYTES = 64 << 20
"""For the tokenizer and the graph itself."""
FREE_DISK_BYTES = 1 << 30
"""What a conversion leaves free on the disk."""


def needed_bytes(source: Path) -> int:
    """About how much disk and memory the conversion takes. Raises ExportError for a file that
    cannot be converted."""
    if len(part_names(source.name)) > 1:  # its digest and its size are those of one file
        raise ExportError(
            f"{source} is one part of a model: merge them first "
            "(llama.cpp: llama-gguf-split --merge FIRST-PART TARGET)"
        )
    return estimated_bytes(open_source(source), _OPTIONS) + _BESIDE_BYTES


def convert(
    source: Path,
    digest: str,
    store: ConversionStore,
    limit_bytes: int,
    progress: Progress,
    check: Callable[[], None],
) -> Conversion:
    """Convert the file *source*, whose SHA-256 is *digest*. The caller holds the store's lock.
    *check* is called before the conversion appears, and raises where it must not.

    Raises ExportError, NotNow, and where it cannot be written QuantizeError or OSError.
    """
    _make_room(needed_bytes(source), store, limit_bytes)
    making = store.folder / ".making"
    shutil.rmtree(making, ignore_errors=True)
    folder = store.folder_of(digest)
    try:
        exported = export(source, making / folder.name, _OPTIONS, progress)
        weights = SplitSource(open_source(source))
        difference = weights_difference(weights, exported.folder)
        if difference:
            raise ExportError(f"the conversion of {source} is wrong: {difference}")
        record = Conversion(
            digest=digest,
            exporter=EXPORTER,
            n_ctx=exported.n_ctx,
            n_short=_n_short(weights.spec, exported.n_ctx),
            window=max((kind.window or 0 for kind in weights.spec.layers), default=0),
            files=describe_files(exported.folder),
        )
        write_json(exported.folder / RECORD, record)
        flush_folder(exported.folder)
        check()
        store.discard(folder)
        os.replace(exported.folder, folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return record


def _n_short(spec: ModelSpec, n_ctx: int) -> int:
    """The longest context that has other rotary positions than one of *n_ctx* tokens; 0: none."""
    stretched = (rotary for rotary in spec.rotaries if rotary.long_frequencies is not None)
    return max((rotary.n_short for rotary in stretched if rotary.n_short < n_ctx), default=0)


def _make_room(n_bytes: int, store: ConversionStore, limit_bytes: int) -> None:
    if n_bytes > limit_bytes:
        raise NotNow(
            f"the conversion takes {_mib(n_bytes)}, and conversion_cache_mb allows "
            f"{_mib(limit_bytes)}: raise it"
        )
    store.make_room(n_bytes, limit_bytes)
    free = shutil.disk_usage(store.folder).free
    if free < n_bytes + FREE_DISK_BYTES:
        raise NotNow(
            f"the conversion takes {_mib(n_bytes)}, and only {_mib(free)} are free in "
            f"{store.folder}: free some space, or set cache_dir to another disk"
        )


def _mib(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:.0f} MiB"
