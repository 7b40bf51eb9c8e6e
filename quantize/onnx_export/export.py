"""Exports a model on disk to a folder with its ONNX graph, tokenizer and settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import onnx
from msgspec import Struct

from spillover.quantize.freed_memory import return_large_arrays
from spillover.quantize.new_file import new_folder
from spillover.quantize.onnx_export import companion_files
from spillover.quantize.onnx_export.calibrated.kv_scales import kv_scales
from spillover.quantize.onnx_export.calibrated.layer_runs import residual_bytes
from spillover.quantize.onnx_export.calibrated.source import N_RESIDUALS, CalibratedSource
from spillover.quantize.onnx_export.calibrated.tokens import (
    TokenIds,
    affordable_chunks,
    chunks_of,
    tokens_of,
)
from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.from_gguf.source import GgufSource
from spillover.quantize.onnx_export.from_hf.source import HfSource
from spillover.quantize.onnx_export.graph.attention_layers import KvScales
from spillover.quantize.onnx_export.graph.decoder import Progress, build
from spillover.quantize.onnx_export.graph.initializers import Initializers
from spillover.quantize.onnx_export.option_check import check_options
from spillover.quantize.onnx_export.options import MAX_N_CTX, ExportOptions, Weights
from spillover.quantize.onnx_export.sizes import n_params, rotary_bytes, weights_bytes
from spillover.quantize.onnx_export.source import WeightSource
from spillover.quantize.onnx_export.source import check as check_source
from spillover.quantize.onnx_export.split_source import SplitSource
from spillover.quantize.verification import Verdict

MODEL_FILE, DATA_FILE = "model.onnx", "model.onnx.data"
_MAX_INLINE_BYTES = 32 << 20
"""Larger weights go to a second file, which sessions map instead of copying it."""
_MOST_GRAPH_BYTES = (2 << 30) - (16 << 20)
"""Of weights in a graph's own file, which cannot be larger than 2 GiB."""


class Exported(Struct, frozen=True, kw_only=True):
    """What was written."""

    folder: Path
    n_params: int
    size_bytes: int
    n_ctx: int
    notes: tuple[str, ...]
    """What the user should know about the choices made."""
    verdict: Verdict | None = None
    """None: not compared with its source."""


Check = Callable[[Path, int, float], Verdict | None]
"""Compares a new folder, given its context and its bits per weight, with its source; None: there is
no memory for that."""


def export(
    source_path: Path,
    target: Path,
    options: ExportOptions,
    progress: Progress,
    check: Check | None = None,
) -> Exported:
    """Write the folder *target* completely or not at all; *check* may raise QuantizeError before it
    gets its name. Raises ExportError, and QuantizeError when it cannot be written."""
    if options.kv_cache == "int8" and not (options.calibration and options.interface == "ragged"):
        raise ExportError(
            "a KV cache in int8 needs a calibration text, which its scales are measured with, and "
            "the ragged interface"
        )
    return_large_arrays()
    source = open_source(source_path)
    if options.tokenizer is not None and isinstance(source, HfSource):
        raise ExportError(
            "--tokenizer has no effect with a folder, which has its own: leave it out"
        )
    if options.is_half and source.spec.family.needs_fp32:
        raise ExportError(
            f"{source.spec.architecture} computes numbers beyond what fp16 can hold: use int4, "
            "int8 or fp32 weights without half"
        )
    weights = SplitSource(source)
    check_source(weights)
    options, notes = _choose_weights(source, options)
    check_options(weights, options)
    n_ctx, more = choose_n_ctx(source, options)
    notes += [*more, *source.notes]
    size = weights_bytes(weights, options) + rotary_bytes(weights, options, n_ctx)
    if options.external_data is False and size > _MOST_GRAPH_BYTES:
        raise ExportError(
            f"the weights take {size / 1e6:.0f} MB, and one file holds less than 2 GiB: leave out "
            "--one-file"
        )
    with new_folder(target, size) as folder:
        notes += companion_files.write(source, options, folder, n_ctx=n_ctx)
        if check is not None:
            companion_files.check(folder)
        notes += _write_graph(weights, options, folder, n_ctx=n_ctx, progress=progress)
        verdict = None
        if check is not None:
            verdict = check(folder, n_ctx, _bits_per_weight(weights, options))
        size = sum(file.stat().st_size for file in folder.iterdir())
    return Exported(
        folder=target,
        n_params=n_params(source),
        size_bytes=size,
        n_ctx=n_ctx,
        notes=tuple(notes),
        verdict=verdict,
    )


def _bits_per_weight(source: WeightSource, options: ExportOptions) -> float:
    """At most 8 where the KV cache has no more."""
    bits = 8 * weights_bytes(source, options) / n_params(source)
    return min(bits, 8.0) if options.kv_cache == "int8" else bits


def open_source(path: Path) -> HfSource | GgufSource:
    """The model in a .gguf file or in a Hugging Face folder. Raises ExportError."""
    if path.is_dir():
        return HfSource(path)
    if path.suffix == ".gguf":
        return GgufSource(path)
    if path.is_file():
        raise ExportError(
            f"{path} is not a .gguf file: give one, or a Hugging Face folder with config.json, "
            "tokenizer.json and safetensors weights"
        )
    raise ExportError(f"there is no file or folder {path}: check the path")


def _choose_weights(
    source: HfSource | GgufSource, options: ExportOptions
) -> tuple[ExportOptions, list[str]]:
    if options.weights is None:
        is_quantized = isinstance(source, GgufSource) and source.quantized_types()
        weights: Weights = "faithful" if is_quantized else "int4"
        return msgspec.structs.replace(options, weights=weights), []
    kinds = kinds_rounded_again(source, options)
    if not kinds:
        return options, []
    return options, [
        f"int4 rounds weights again that the file stores in {', '.join(kinds)}: this raised the "
        "perplexity of a model of 135 million parameters (Q4_1) by 12 %, and --weights faithful "
        "by less than 1 %"
    ]


def kinds_rounded_again(source: HfSource | GgufSource, options: ExportOptions) -> list[str]:
    """The types of weights that are quantized already, and that 4 bits would round once more."""
    if options.weights != "int4" or not isinstance(source, GgufSource):
        return []
    stored = source.quantized_types()
    return sorted({kind for name, kind in stored.items() if source.exact_bits(name) != 4})


def choose_n_ctx(source: WeightSource, options: ExportOptions) -> tuple[int, list[str]]:
    """The longest context of an export, and notes on it. Raises ExportError."""
    most = source.spec.n_ctx
    if options.n_ctx is not None and not 0 < options.n_ctx <= most:
        raise ExportError(f"the context of this model must have 1 to {most} tokens")
    n_ctx = options.n_ctx or min(most, MAX_N_CTX)
    notes = []
    if options.n_ctx is None and most > MAX_N_CTX:
        notes.append(
            f"the context is {MAX_N_CTX} of the model's {most} tokens: --n-ctx makes it longer"
        )
    notes += [
        f"the rotary positions are those for more than {rotary.n_short} tokens: "
        f"--n-ctx {rotary.n_short} is more exact for shorter contexts"
        for rotary in source.spec.rotaries
        if rotary.long_frequencies is not None and n_ctx > rotary.n_short
    ]
    return n_ctx, notes


def _write_graph(
    source: WeightSource, options: ExportOptions, folder: Path, *, n_ctx: int, progress: Progress
) -> list[str]:
    """Returns notes for the user."""
    scales: list[KvScales] = []
    notes: list[str] = []
    if options.calibration:
        tokens = tokens_of(folder, options.calibration)
        chunks, notes = _chunks(source, tokens, n_ctx)
        if options.kv_cache == "int8":
            scales = kv_scales(source, options, chunks, n_ctx)
        if options.weights == "int4":
            source = CalibratedSource(source, options, chunks, n_ctx=n_ctx)
    data_path = folder / DATA_FILE if _is_external(source, options) else None
    initializers = Initializers(data_path)
    try:
        model = build(
            source, options, initializers, n_ctx=n_ctx, progress=progress, kv_scales=scales
        )
    finally:
        initializers.close()
    onnx.save_model(model, folder / MODEL_FILE)
    return notes


def _chunks(source: WeightSource, tokens: TokenIds, n_ctx: int) -> tuple[list[TokenIds], list[str]]:
    """As many of the calibration text as memory holds, and a note where these are fewer."""
    wanted = chunks_of(tokens, n_ctx)
    n = affordable_chunks(N_RESIDUALS * residual_bytes(source.spec))
    if n >= len(wanted):
        return wanted, []
    note = (
        f"{n} of {len(wanted)} chunks of the calibration text were read: a quarter of the free "
        "memory holds no more. Free some to export more exactly"
    )
    return chunks_of(tokens, n_ctx, n), [note]


def _is_external(source: WeightSource, options: ExportOptions) -> bool:
    if options.external_data is not None:
        return options.external_data
    return estimated_bytes(source, options) > _MAX_INLINE_BYTES


def estimated_bytes(source: WeightSource, options: ExportOptions) -> int:
    """About how large the weights will be; never much less than they are."""
    bits = {"int4": 5, "int8": 9, "faithful": 9, "fp16": 16, "fp32": 32}[options.weights or "int4"]
    return n_params(source) * bits // 8
