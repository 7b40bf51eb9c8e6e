"""Rotary position frequencies, and the ways in which models stretch them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.spec import Rotary

Doubles = npt.NDArray[np.float64]


def plain_frequencies(theta: float, n_rotary: int) -> Doubles:
    """theta^(-2i/n) for i = 0 … n/2 - 1 (RoFormer, section 3.2.2)."""
    exponents: Doubles = np.arange(0, n_rotary, 2, dtype=np.float64) / n_rotary
    frequencies: Doubles = theta**-exponents
    return frequencies


@np.errstate(divide="raise", invalid="raise", over="raise")
def rotary(theta: float, n_rotary: int, scaling: dict[str, Any], n_ctx: int) -> Rotary:
    """The rotary under *scaling*, the rope_scaling table of a config.json, of a model that was
    trained for *n_ctx* tokens.

    Raises ExportError for an unknown kind, KeyError for a missing number, ArithmeticError for one
    that gives no frequencies.
    """
    frequencies = plain_frequencies(theta, n_rotary)
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind in ("default", "none"):
        return _of(frequencies)
    if kind in ("longrope", "su"):
        return _longrope(frequencies, scaling, n_ctx)
    factor = float(scaling["factor"])
    if kind == "linear":
        return _of(frequencies / factor)
    if kind == "llama3":
        return _of(_llama3(frequencies, factor, scaling))
    if kind == "yarn":
        return _yarn(frequencies, theta, factor, scaling, n_ctx)
    raise ExportError(
        f"the rotary scaling {str(kind)[:80]!r} is not supported: default, linear, llama3, yarn "
        "and longrope are"
    )


def _of(frequencies: Doubles, magnitude: float = 1.0) -> Rotary:
    return Rotary(frequencies=tuple(frequencies.tolist()), magnitude=magnitude)


def _llama3(frequencies: Doubles, factor: float, scaling: dict[str, Any]) -> Doubles:
    """Divide slow frequencies, keep fast ones, and blend linearly in between (Llama 3.1)."""
    low, high = float(scaling["low_freq_factor"]), float(scaling["high_freq_factor"])
    turns = float(scaling["original_max_position_embeddings"]) * frequencies / (2 * math.pi)
    share_kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    blended: Doubles = frequencies * (share_kept + (1 - share_kept) / factor)
    return blended


def _yarn(
    frequencies: Doubles, theta: float, factor: float, scaling: dict[str, Any], n_ctx: int
) -> Rotary:
    """YaRN (Peng et al. 2023, sections 3.2 to 3.4)."""
    if scaling.get("mscale") or scaling.get("mscale_all_dim"):
        raise ExportError("yarn with mscale is not supported: export without it")
    original = float(scaling.get("original_max_position_embeddings") or n_ctx)
    n_rotary = 2 * len(frequencies)

    def dimension(n_turns: float) -> float:
        return n_rotary * math.log(original / (n_turns * 2 * math.pi)) / (2 * math.log(theta))

    first = dimension(float(scaling.get("beta_fast") or 32))
    last = dimension(float(scaling.get("beta_slow") or 1))
    if scaling.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, n_rotary - 1)
    ramp = (np.arange(n_rotary // 2) - first) / max(last - first, 0.001)
    share_divided = np.clip(ramp, 0.0, 1.0)
    blended: Doubles = frequencies * (1 - share_divided + share_divided / factor)
    magnitude = scaling.get("attention_factor")
    return _of(blended, float(magnitude or 0.1 * math.log(factor) + 1.0))


def _longrope(frequencies: Doubles, scaling: dict[str, Any], n_ctx: int) -> Rotary:
    """LongRoPE (Ding et al. 2024) as Phi-3 has it: a divisor for each frequency, of which there is
    one set for short contexts and one for long ones."""
    n_short = int(scaling.get("original_max_position_embeddings") or n_ctx)
    if n_short < 2:
        raise ExportError(f"longrope was trained for {n_short} tokens: config.json is damaged")
    factor = float(scaling.get("factor") or n_ctx / n_short)
    magnitude = scaling.get("attention_factor")
    if magnitude is None:
        magnitude = math.sqrt(1 + math.log(factor) / math.log(n_short)) if factor > 1 else 1.0
    plain = tuple(frequencies.tolist())
    return Rotary(
        frequencies=divided(plain, scaling["short_factor"]),
        long_frequencies=divided(plain, scaling["long_factor"]),
        n_short=n_short,
        magnitude=float(magnitude),
    )


def divided(frequencies: tuple[float, ...], divisors: Any) -> tuple[float, ...]:
    """Each frequency by its divisor. Raises ExportError when they do not match."""
    values = np.asarray(divisors, np.float64).reshape(-1)
    if len(values) != len(frequencies) or not (values > 0).all():
        raise ExportError(
            f"the rotary scaling must have {len(frequencies)} positive divisors for the "
            f"frequencies, but has {len(values)} numbers"
        )
    return tuple((np.asarray(frequencies) / values).tolist())


def caches(
    frequencies: tuple[float, ...], magnitude: float, n_positions: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Cosines and sines, (n_positions, pairs) each."""
    angles = np.outer(np.arange(n_positions), np.asarray(frequencies))
    return (
        (np.cos(angles) * magnitude).astype(np.float32),
        (np.sin(angles) * magnitude).astype(np.float32),
    )
