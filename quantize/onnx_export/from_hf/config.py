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
MULTIMODAL = ("gemma3",)
"""Models of text and images whose decoder is in FAMILIES; its keys are under text_config."""
_GEMMA2 = {
    "vocab_size": 256_000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "sliding_window": 4096,
    "sliding_window_pattern": 2,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "tie_word_embeddings": True,
}
_GEMMA3 = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 131_072,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA3,
    "smollm3": {"rope_theta": 2_000_000.0, "tie_word_embeddings": True},
    "phi3": {"max_position_embeddings": 4096, "rms_norm_eps": 1e-5},
}
"""By model type, what files leave out (transformers' configuration classes)."""


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
    sliding_window_pattern: Size = 6
    rope_local_base_freq: float | None = None
    query_pre_attn_scalar: Positive = 256.0
    final_logit_softcapping: Positive | None = None
    attn_logit_softcapping: Positive | None = None
    use_bidirectional_attention: bool | None = None
    no_rope_layers: list[int] | None = None
    no_rope_layer_interval: Size = 4
    embedding_multiplier: Positive = 1.0
    attention_multiplier: Positive = 1.0
    residual_multiplier: Positive = 1.0
    logits_scaling: Positive = 1.0
    quantization_config: dict[str, Any] | None = None


def read_config(content: bytes) -> HfConfig:
    """Raises ExportError for a file that describes no decoder that can be exported."""
    try:
        given = msgspec.json.decode(content, type=dict[str, Any])
        text = given.get("text_config")
        if given.get("model_type") in MULTIMODAL and isinstance(text, dict):
            given = text
        defaults = _DEFAULTS.get(str(given.get("model_type")), {})
        config = msgspec.convert({**defaults, **given}, HfConfig)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ExportError(f"config.json does not describe a decoder: {error}") from error
    _refuse_what_is_not_supported(config)
    return config


def _refuse_what_is_not_supported(config: HfConfig) -> None:
    if config.model_type not in FAMILIES:
        raise ExportError(
            f"the model type {config.model_type[:80]!r} is not supported: "
            f"{', '.join([*FAMILIES, *MULTIMODAL])} are (SmolLM is a llama)"
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
    if config.attn_logit_softcapping is not None and config.model_type != "gemma2":
        raise ExportError("attn_logit_softcapping is not supported: only Gemma 2 has it")
    if config.use_bidirectional_attention:
        raise ExportError("the model attends to later tokens too: it makes embeddings, not text")
