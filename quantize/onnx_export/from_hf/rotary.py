"""The rotary positions that a config.json describes."""

from __future__ import annotations

from typing import Any

from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.from_hf.config import HfConfig
from spillover.quantize.onnx_export.rope import rotary
from spillover.quantize.onnx_export.spec import Rotary

_THETA = 10_000.0


def rotaries(config: HfConfig, n_per_head: int) -> tuple[Rotary, ...]:
    """Those that the layers use. Raises ExportError."""
    scaling = config.rope_parameters or config.rope_scaling or {}
    theta = config.rope_theta or scaling.get("rope_theta", _THETA)
    return (_rotary(config, n_per_head, theta, scaling),)


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
