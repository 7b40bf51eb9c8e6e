"""The rotary positions that a config.json describes."""

from __future__ import annotations

from typing import Any

from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.from_hf.config import HfConfig
from spillover.quantize.onnx_export.rope import rotary
from spillover.quantize.onnx_export.spec import Rotary

_THETA, _GEMMA3_THETA = 10_000.0, 1_000_000.0


def rotaries(config: HfConfig, n_per_head: int) -> tuple[Rotary, ...]:
    """Those that the layers use; Gemma 3's second one is for its windows. Raises ExportError."""
    return tuple(
        _rotary(config, n_per_head, theta, scaling) for theta, scaling in parameters(config)
    )


def parameters(config: HfConfig) -> tuple[tuple[Any, dict[str, Any]], ...]:
    """Of each rotary: the base of its frequencies, and its table of scaling."""
    scaling = config.rope_parameters or config.rope_scaling or {}
    if config.model_type != "gemma3_text":
        return ((scaling.get("rope_theta") or config.rope_theta or _THETA, scaling),)
    by_layer = {kind: scaling.get(kind) for kind in ("full_attention", "sliding_attention")}
    whole, local = (table if isinstance(table, dict) else None for table in by_layer.values())
    whole, local = scaling if whole is None else whole, local or {}
    return (
        (whole.get("rope_theta") or config.rope_theta or _GEMMA3_THETA, whole),
        (local.get("rope_theta") or config.rope_local_base_freq or _THETA, local),
    )


def _rotary(config: HfConfig, n_per_head: int, theta: Any, scaling: dict[str, Any]) -> Rotary:
    original = config.original_max_position_embeddings
    known = {} if original is None else {"original_max_position_embeddings": original}
    try:
        share = float(scaling.get("partial_rotary_factor", config.partial_rotary_factor))
        if not 0 < share <= 1:
            raise ExportError(f"config.json turns a share of {share} of each head: 0 to 1 is right")
        return rotary(
            float(theta),
            int(n_per_head * share),
            {**scaling, **known},
            config.max_position_embeddings,
        )
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise ExportError(f"config.json has no valid rotary scaling: {error!r}") from error
