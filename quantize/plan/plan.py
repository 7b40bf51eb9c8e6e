"""Which files of a model would fit this device, how fast they would be, and which one to make."""

from __future__ import annotations

import math
from collections.abc import Generator
from pathlib import Path

from msgspec import Struct

from spillover.models.libraries import has_llama
from spillover.quantize.child import Progress, call_in_child
from spillover.quantize.onnx_export.export import open_source
from spillover.quantize.onnx_export.from_gguf.source import GgufSource
from spillover.quantize.onnx_export.sizes import n_params, rotary_bytes, weights_bytes
from spillover.quantize.onnx_export.source import EMBEDDING, WeightSource, check
from spillover.quantize.onnx_export.split_source import SplitSource
from spillover.quantize.plan.device_speed import DeviceSpeed
from spillover.quantize.plan.gguf_sizes import SizesOrder, gguf_sizes
from spillover.quantize.plan.recipes import GGUF_RECIPES, ONNX_RECIPES

_EXPORT = "spillover export gguf SOURCE F16.gguf --type F16"
_BASE_BYTES = {"llama.cpp": 70 << 20, "ONNX Runtime": 130 << 20}
"""Resident memory of a process with a tiny model."""
_KV_VALUE_BYTES = {"llama.cpp": 2, "ONNX Runtime": 4}


class Wish(Struct, frozen=True, kw_only=True):
    """What the device offers, and what is asked of the model."""

    memory_bytes: int
    n_ctx: int
    speed_floor: float
    """Tokens per second of one stream; 0: any."""


class Option(Struct, frozen=True, kw_only=True):
    """One file that could be made."""

    name: str
    engine: str
    command: str
    """What makes it, with SOURCE and TARGET in place of the names."""
    size_bytes: int
    kv_bytes: int
    """Of one conversation of the whole context."""
    peak_bytes: int
    tokens_per_s: float
    """One stream in the middle of the context, if memory is what it waits for."""
    expected_divergence: float
    fits: bool
    is_fast_enough: bool


class Plan(Struct, frozen=True, kw_only=True):
    """All options, and the pick."""

    options: tuple[Option, ...]
    pick: str
    """Empty: none is possible."""
    reason: str


def plan(path: Path, wish: Wish, speed: DeviceSpeed, progress: Progress) -> Plan:
    """Raises ExportError for a model whose architecture is not known, QuantizeError."""
    stored = open_source(path)
    source = SplitSource(stored)
    check(source)
    sizes: dict[str, int] = {}
    if isinstance(stored, GgufSource) and has_llama():
        sizes = call_in_child(gguf_sizes, SizesOrder(source=path), progress)
    options = [*_onnx(source, wish, speed)]
    if has_llama():
        before = "" if isinstance(stored, GgufSource) else f"{_EXPORT} && "
        options = [*_gguf(sizes, source, wish, speed, before), *options]
    return _picked(options, wish)


def _gguf(
    sizes: dict[str, int], source: WeightSource, wish: Wish, speed: DeviceSpeed, before: str
) -> Generator[Option]:
    """*before*: what makes a GGUF file of the source first, if it is none."""
    name = "F16.gguf" if before else "SOURCE"
    for recipe in GGUF_RECIPES:
        kind = recipe.file_type
        size = sizes.get(kind) or int(n_params(source) * recipe.bits / 8)
        yield _option(
            source,
            wish,
            engine="llama.cpp",
            name=kind,
            command=f"{before}spillover quantize run {name} TARGET --type {kind}"
            + " --imatrix auto" * recipe.has_imatrix,
            size=size,
            loaded=size,
            peak=size,
            bytes_per_s=speed.memory,
            expected=recipe.expected,
        )


def _onnx(source: WeightSource, wish: Wish, speed: DeviceSpeed) -> Generator[Option]:
    for recipe in ONNX_RECIPES:
        bits = 4 if recipe.options.weights == "int4" else 8
        tables = rotary_bytes(source, recipe.options, min(wish.n_ctx, source.spec.n_ctx))
        size = weights_bytes(source, recipe.options) + tables
        loaded = weights_bytes(source, recipe.options, is_loaded=True) + tables
        yield _option(
            source,
            wish,
            engine="ONNX Runtime",
            name=recipe.name,
            command=f"spillover export onnx SOURCE TARGET {recipe.flags}",
            size=size,
            loaded=loaded,
            # They are packed anew, beside the mapped file.
            peak=size + loaded,
            bytes_per_s=speed.onnx[bits],
            expected=recipe.expected,
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
    )


def _picked(options: list[Option], wish: Wish) -> Plan:
    """The most exact of those that fit and are fast enough."""
    possible = [one for one in options if one.fits and one.is_fast_enough]
    if possible:
        best = min(possible, key=lambda one: (one.expected_divergence, -one.tokens_per_s))
        reason = "it loses least of those that fit"
        reason += f" and write {wish.speed_floor:g} tokens/s" if wish.speed_floor else ""
        return Plan(options=tuple(options), pick=best.name, reason=reason)
    fitting = [one for one in options if one.fits]
    smallest = min(options, key=lambda one: one.peak_bytes)
    if not fitting:
        reason = (
            f"nothing fits: {smallest.name} takes least memory, {smallest.peak_bytes / 2**20:.0f} "
            "MiB. Lower --n-ctx, or choose a smaller model"
        )
    else:
        fastest = max(fitting, key=lambda one: one.tokens_per_s)
        reason = (
            f"nothing that fits is fast enough: {fastest.name} writes about "
            f"{fastest.tokens_per_s:.1f} tokens/s. Choose a smaller model"
        )
    return Plan(options=tuple(options), pick="", reason=reason)
