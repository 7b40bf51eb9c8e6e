"""The rotary positions that a GGUF file describes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from spillover.quantize.onnx_export.blocks import Floats
from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.from_gguf.numbers import GgufNumbers
from spillover.quantize.onnx_export.rope import divided, rotary
from spillover.quantize.onnx_export.spec import Rotary

ALL, SHORT, LONG = "rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight"
DIVISORS = frozenset({ALL, SHORT, LONG})
"""Tensors of divisors for the frequencies: Llama 3.1's, and LongRoPE's for both lengths."""
_THETA = 10_000.0


def rotaries(
    numbers: GgufNumbers, n_per_head: int, divisors: Mapping[str, Floats]
) -> tuple[Rotary, ...]:
    """Those that the layers use, as llama.cpp computes them; Gemma 3's second one is for its
    windows. Raises ExportError."""
    n_rotary = numbers.whole("rope.dimension_count", n_per_head)
    if n_rotary > n_per_head or n_rotary % 2:
        raise ExportError(f"the GGUF file turns {n_rotary} of the {n_per_head} values of a head")
    theta, n_ctx = numbers.real("rope.freq_base", _THETA), numbers.whole("context_length")
    try:
        plain = rotary(theta, n_rotary, _scaling(numbers), n_ctx)
    except (ArithmeticError, ValueError) as error:
        raise ExportError(f"the GGUF file has no valid rotary scaling: {error}") from error
    factor = numbers.real("rope.scaling.attn_factor", 1.0)
    whole = _divided(plain, numbers, divisors)
    found = [msgspec.structs.replace(whole, magnitude=whole.magnitude * factor)]
    if numbers.architecture == "gemma3":
        local = rotary(numbers.real("rope.freq_base_swa", _THETA), n_rotary, {}, n_ctx)
        found.append(msgspec.structs.replace(local, magnitude=factor))
    return tuple(found)


def _divided(plain: Rotary, numbers: GgufNumbers, divisors: Mapping[str, Floats]) -> Rotary:
    if ALL in divisors:
        return msgspec.structs.replace(plain, frequencies=divided(plain.frequencies, divisors[ALL]))
    if not {SHORT, LONG} <= divisors.keys():
        return plain
    return msgspec.structs.replace(
        plain,
        frequencies=divided(plain.frequencies, divisors[SHORT]),
        long_frequencies=divided(plain.frequencies, divisors[LONG]),
        n_short=_n_original(numbers),
    )


def _n_original(numbers: GgufNumbers) -> int:
    n_ctx = numbers.whole("context_length")
    return numbers.whole("rope.scaling.original_context_length", n_ctx)


def _scaling(numbers: GgufNumbers) -> dict[str, Any]:
    """The scaling in the words of a config.json. A factor without a kind is linear."""
    kind = numbers.get("rope.scaling.type") or "linear"
    factor = _factor(numbers)
    if kind == "none":
        return {}
    if kind == "yarn":
        if numbers.get("rope.scaling.yarn_log_multiplier"):
            raise ExportError("yarn with a log multiplier is not supported: use llama.cpp")
        return {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": _n_original(numbers),
            "beta_fast": numbers.real("rope.scaling.yarn_beta_fast", 32.0),
            "beta_slow": numbers.real("rope.scaling.yarn_beta_slow", 1.0),
        }
    # LongRoPE is in the divisors.
    return {"rope_type": "linear" if kind == "longrope" else kind, "factor": factor}


def _factor(numbers: GgufNumbers) -> float:
    for key in ("rope.scaling.factor", "rope.scale_linear"):
        if numbers.get(key):  # 0 means none
            return numbers.real(key)
    return 1.0
