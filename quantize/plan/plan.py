"""Which files of a model would fit this device, how fast they would be, and which one to make."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Generator
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from spillover.models.libraries import INSTALL_LLAMA, has_llama
from spillover.quantize.child import Progress, call_in_child
from spillover.quantize.gguf_export.export import check_folder
from spillover.quantize.onnx_export import companion_files
from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.export import kinds_rounded_again, open_source
from spillover.quantize.onnx_export.from_gguf.source import GgufSource
from spillover.quantize.onnx_export.from_hf.source import HfSource
from spillover.quantize.onnx_export.options import ExportOptions
from spillover.quantize.onnx_export.sizes import n_params, rotary_bytes, weights_bytes
from spillover.quantize.onnx_export.source import EMBEDDING, WeightSource, check
from spillover.quantize.onnx_export.split_source import SplitSource
from spillover.quantize.plan.commands import gguf_export, new_name, onnx_export, quantization
from spillover.quantize.plan.device_speed import DeviceSpeed
from spillover.quantize.plan.gguf_sizes import GgufSize, SizesOrder, gguf_sizes
from spillover.quantize.plan.recipes import GGUF_RECIPES, ONNX_RECIPES
from spillover.runtime.errors import ModelError

_BASE_BYTES = {"llama.cpp": 70 << 20, "ONNX Runtime": 130 << 20}
"""Resident memory of a process with a tiny model."""
_KV_VALUE_BYTES = {"llama.cpp": 2, "ONNX Runtime": 4}
_NOT_QUANTIZED = "start from the F16, BF16 or F32 file, or the Hugging Face folder"


class Wish(Struct, frozen=True, kw_only=True):
    """What the device offers, and what is asked of the model."""

    memory_bytes: int
    n_ctx: int
    """At most the model's own."""
    speed_floor: float
    """Tokens per second of one stream; 0: any."""


class Option(Struct, frozen=True, kw_only=True):
    """One file that could be made."""

    name: str
    engine: str
    command: str
    """What makes it, with names that are free in the current folder."""
    size_bytes: int
    kv_bytes: int
    """Of one conversation of the whole context."""
    peak_bytes: int
    tokens_per_s: float
    """One stream in the middle of the context, if memory is what it waits for."""
    expected_divergence: float
    fits: bool
    is_fast_enough: bool
    is_rounded_again: bool
    """Whether it rounds weights once more that are quantized already, and so loses more than is
    expected."""


class Plan(Struct, frozen=True, kw_only=True):
    """All options, and the pick."""

    options: tuple[Option, ...]
    n_ctx: int
    """The context that they are for."""
    pick: str
    """Empty: none is possible."""
    reason: str
    notes: tuple[str, ...] = ()
    """Why there is nothing for an engine."""


def plan(path: Path, wish: Wish, speed: DeviceSpeed, progress: Progress) -> Plan:
    """Raises ExportError for a model whose architecture is not known, QuantizeError."""
    stored = open_source(path)
    source = SplitSource(stored)
    check(source)
    wish = replace(wish, n_ctx=min(wish.n_ctx, source.spec.n_ctx))
    problems = {"llama.cpp": _gguf_problem(path, stored), "ONNX Runtime": _onnx_problem(stored)}
    options: list[Option] = []
    if not problems["llama.cpp"]:
        options += _gguf(path, stored, wish, speed, progress)
    if not problems["ONNX Runtime"]:
        options += _onnx(path, stored, wish, speed)
    notes = tuple(f"nothing for {name}: {problem}" for name, problem in problems.items() if problem)
    if not options:
        raise ExportError("; ".join(notes))
    return replace(_picked(options, wish), notes=notes)


def _gguf_problem(path: Path, stored: HfSource | GgufSource) -> str:
    """Why no GGUF file can be made of it, or run; empty: it can."""
    if not has_llama():
        return INSTALL_LLAMA
    if isinstance(stored, GgufSource):
        return ""
    try:
        check_folder(path, "F16")
    except (ExportError, ModelError) as error:
        return str(error)
    return ""


def _onnx_problem(stored: HfSource | GgufSource) -> str:
    """Why no ONNX model can be made of it; empty: it can. Its weights were checked."""
    with tempfile.TemporaryDirectory(prefix="spillover-") as folder:
        try:
            companion_files.write(stored, ExportOptions(), Path(folder), n_ctx=1)
            companion_files.check(Path(folder))
        except ExportError as error:
            return str(error)
    return ""


def _gguf(
    path: Path,
    stored: HfSource | GgufSource,
    wish: Wish,
    speed: DeviceSpeed,
    progress: Progress,
) -> Generator[Option]:
    source, before = SplitSource(stored), ""
    sizes: dict[str, GgufSize] = {}
    if isinstance(stored, GgufSource):
        file = stored.path
        sizes = call_in_child(gguf_sizes, SizesOrder(source=file), progress)
    else:
        file = new_name(path, "F16", ".gguf")
        before = f"{gguf_export(path, file)} && "
    for recipe in GGUF_RECIPES:
        kind = recipe.file_type
        about = GgufSize(size_bytes=int(n_params(source) * recipe.bits / 8), is_rounded_again=False)
        size = sizes.get(kind, about)
        flags = ["--imatrix auto"] * recipe.has_imatrix
        flags += ["--allow-requantize"] * size.is_rounded_again
        yield _option(
            source,
            wish,
            engine="llama.cpp",
            name=kind,
            command=before + quantization(file, new_name(path, kind, ".gguf"), kind, flags),
            size=size.size_bytes,
            loaded=size.size_bytes,
            peak=size.size_bytes,
            bytes_per_s=speed.memory,
            expected=recipe.expected,
            is_rounded_again=size.is_rounded_again,
        )


def _onnx(
    path: Path, stored: HfSource | GgufSource, wish: Wish, speed: DeviceSpeed
) -> Generator[Option]:
    source = SplitSource(stored)
    for recipe in ONNX_RECIPES:
        bits = 4 if recipe.options.weights == "int4" else 8
        tables = rotary_bytes(source, recipe.options, wish.n_ctx)
        size = weights_bytes(source, recipe.options) + tables
        loaded = weights_bytes(source, recipe.options, is_loaded=True) + tables
        target = new_name(path, recipe.folder_name)
        yield _option(
            source,
            wish,
            engine="ONNX Runtime",
            name=recipe.name,
            command=onnx_export(path, target, [*recipe.flags, f"--n-ctx {wish.n_ctx}"]),
            size=size,
            loaded=loaded,
            # They are packed anew, beside the mapped file.
            peak=size + loaded,
            bytes_per_s=speed.onnx[bits],
            expected=recipe.expected,
            is_rounded_again=bool(kinds_rounded_again(stored, recipe.options)),
        )


def _option(
    source: WeightSource,
    wish: Wish,
    *,
    engine: str,
    name: str,
    command: str,
    size: int,
    loaded: int,
    peak: int,
    bytes_per_s: float,
    expected: float,
    is_rounded_again: bool,
) -> Option:
    """*size*, *loaded*, *peak*: bytes of the weights in the file, as they are read for each token,
    and while they are loaded."""
    spec = source.spec
    per_token = 2 * len(spec.layers) * spec.n_head_kv * spec.n_per_head * _KV_VALUE_BYTES[engine]
    kv_bytes = per_token * wish.n_ctx
    peak += _BASE_BYTES[engine] + kv_bytes
    # Of an embedding that is not the head, too, a token reads one row only.
    unread = 0 if spec.is_tied else math.prod(source.shape(EMBEDDING)) / n_params(source)
    tokens_per_s = bytes_per_s / (loaded * (1 - unread) + kv_bytes / 2)
    return Option(
        name=name,
        engine=engine,
        command=command,
        size_bytes=size,
        kv_bytes=kv_bytes,
        peak_bytes=peak,
        tokens_per_s=tokens_per_s,
        expected_divergence=expected,
        fits=peak <= wish.memory_bytes,
        is_fast_enough=tokens_per_s >= wish.speed_floor,
        is_rounded_again=is_rounded_again,
    )


def _picked(options: list[Option], wish: Wish) -> Plan:
    """The most exact of those that fit and are fast enough."""
    possible = [one for one in options if one.fits and one.is_fast_enough]
    harmless = [one for one in possible if not one.is_rounded_again]
    if harmless:
        pick = _best(harmless).name
        reason = "it loses least of those that fit"
        reason += f" and write {wish.speed_floor:g} tokens/s" if wish.speed_floor else ""
    else:
        pick, reason = "", _why_none(options, possible)
    return Plan(options=tuple(options), n_ctx=wish.n_ctx, pick=pick, reason=reason)


def _best(options: list[Option]) -> Option:
    return min(options, key=lambda one: (one.expected_divergence, -one.tokens_per_s))


def _why_none(options: list[Option], possible: list[Option]) -> str:
    """*possible*: those that fit and are fast enough, but round weights once more."""
    if possible:
        return (
            "what fits would round weights once more that are quantized already, and lose more "
            f"than is expected: {_NOT_QUANTIZED}; of it, {_best(possible).name} would be the pick"
        )
    fitting = [one for one in options if one.fits]
    if not fitting:
        smallest = min(options, key=lambda one: one.peak_bytes)
        return (
            f"nothing fits: {smallest.name} takes least memory, {smallest.peak_bytes / 2**20:.0f} "
            "MiB. Lower --n-ctx, or choose a smaller model"
        )
    fastest = max(fitting, key=lambda one: one.tokens_per_s)
    return (
        f"nothing that fits is fast enough: {fastest.name} writes about "
        f"{fastest.tokens_per_s:.1f} tokens/s. Choose a smaller model"
    )
