"""The config.json of a Hugging Face model."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.families import FAMILIES

Size = Annotated[int, Meta(gt=0, le=1 << 24)]
Positive = Annotated[float, Meta(gt=0, le=1e6)]

_ACTIVATIONS = {"silu": ("silu", "swish"), "gelu_tanh": ("gelu_pytorch_tanh", "gelu_tanh")}
_DEFAULTS: dict[str, dict[str, Any]] = {}
"""By model type, what files leave out; transformers' configuration classes."""


class HfConfig(Struct, kw_only=True):
    """The keys that matter."""

    model_type: str
    vocab_size: Size
    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Annotated[int, Meta(gt=0, le=1024)]
    num_attention_heads: Size
    num_key_value_heads: Size | None = None
    head_dim: Size | None = None
    hidden_act: str = "silu"
    hidden_activation: str | None = None
    max_position_embeddings: Size = 2048
    original_max_position_embeddings: Size | None = None
    rms_norm_eps: float = 1e-6
    rope_theta: float | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    """Where newer files hold rope_theta and rope_scaling."""
    partial_rotary_factor: float = 1.0
    tie_word_embeddings: bool = False
    sliding_window: Size | None = None
    use_sliding_window: bool | None = None
    max_window_layers: int = 0
    layer_types: list[str] | None = None
    quantization_config: dict[str, Any] | None = None


def read_config(content: bytes) -> HfConfig:
    """Raises ExportError for a file that describes no decoder that can be exported."""
    try:
        given = msgspec.json.decode(content, type=dict[str, Any])
        config = msgspec.convert({**_defaults(given), **given}, HfConfig)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ExportError(f"config.json does not describe a decoder: {error}") from error
    _refuse_what_is_not_supported(config)
    return config


def _defaults(given: dict[str, Any]) -> dict[str, Any]:
    return _DEFAULTS.get(str(given.get("model_type")), {})


def _refuse_what_is_not_supported(config: HfConfig) -> None:
    if config.model_type not in FAMILIES:
        raise ExportError(
            f"the model type {config.model_type[:80]!r} is not supported: "
            f"{', '.join(FAMILIES)} are (SmolLM is a llama)"
        )
    if config.quantization_config is not None:
        raise ExportError("the weights are already quantized: export from the original weights")
    expected = FAMILIES[config.model_type].activation
    stated = config.hidden_activation or config.hidden_act
    if stated not in _ACTIVATIONS[expected]:
        raise ExportError(
            f"the activation {stated[:80]!r} is not supported: {config.model_type} has "
            f"{_ACTIVATIONS[expected][0]}"
        )
