"""Turns the config.json of a Hugging Face model into a ModelSpec."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.rope import scaled_frequencies
from spillover.quantize.onnx_export.spec import ARCHITECTURES, LayerKind, ModelSpec

Size = Annotated[int, Meta(gt=0, le=1 << 24)]


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
    max_position_embeddings: Size = 2048
    rms_norm_eps: float = 1e-6
    rope_theta: float | None = None
    rope_scaling: dict[str, Any] | None = None
    rope_parameters: dict[str, Any] | None = None
    """Where newer files hold rope_theta and rope_scaling."""
    partial_rotary_factor: float = 1.0
    tie_word_embeddings: bool = False
    sliding_window: int | None = None
    use_sliding_window: bool | None = None
    max_window_layers: int = 0
    layer_types: list[str] | None = None
    quantization_config: dict[str, Any] | None = None


def read_spec(content: bytes) -> ModelSpec:
    """The spec in a config.json. Raises ExportError."""
    try:
        config = msgspec.json.decode(content, type=HfConfig)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ExportError(f"config.json does not describe a decoder: {error}") from error
    _refuse_what_is_not_supported(config)
    n_head, n_head_kv = config.num_attention_heads, config.num_key_value_heads
    n_per_head = config.head_dim or config.hidden_size // n_head
    if n_head % (n_head_kv or n_head) or n_per_head % 2:
        raise ExportError(
            f"config.json has {n_head} heads of {n_per_head} values for {n_head_kv} of keys: "
            "their numbers must divide and their size be even"
        )
    frequencies, magnitude = _rotary(config, n_per_head)
    return ModelSpec(
        architecture=config.model_type,
        n_vocab=config.vocab_size,
        n_hidden=config.hidden_size,
        n_inner=config.intermediate_size,
        n_head=n_head,
        n_head_kv=n_head_kv or n_head,
        n_per_head=n_per_head,
        norm_epsilon=config.rms_norm_eps,
        n_ctx=config.max_position_embeddings,
        frequencies=frequencies,
        magnitude=magnitude,
        layers=tuple(_layer(config, index) for index in range(config.num_hidden_layers)),
        is_tied=config.tie_word_embeddings,
    )


def _refuse_what_is_not_supported(config: HfConfig) -> None:
    if config.model_type not in ARCHITECTURES:
        raise ExportError(
            f"the model type {config.model_type!r} is not supported: "
            f"{', '.join(ARCHITECTURES)} are (SmolLM is a llama)"
        )
    if config.quantization_config is not None:
        raise ExportError("the weights are already quantized: export from the original weights")
    if config.hidden_act not in ("silu", "swish"):
        raise ExportError(f"the activation {config.hidden_act!r} is not supported: silu is")
    if config.partial_rotary_factor != 1.0:
        raise ExportError("rotary positions on only a part of each head are not supported")


def _rotary(config: HfConfig, n_per_head: int) -> tuple[tuple[float, ...], float]:
    parameters = config.rope_parameters or config.rope_scaling or {}
    theta = config.rope_theta or parameters.get("rope_theta", 10_000.0)
    try:
        frequencies, magnitude = scaled_frequencies(
            float(theta), n_per_head, parameters, config.max_position_embeddings
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ExportError(f"config.json has no valid rotary scaling: {error!r}") from error
    return tuple(frequencies.tolist()), magnitude


def _layer(config: HfConfig, index: int) -> LayerKind:
    if not _is_windowed(config, index):
        return LayerKind()
    return LayerKind(window=config.sliding_window)


def _is_windowed(config: HfConfig, index: int) -> bool:
    if config.sliding_window is None or config.use_sliding_window is False:
        return False
    if config.layer_types is not None:
        return index < len(config.layer_types) and "sliding" in config.layer_types[index]
    if config.model_type in ("qwen2", "qwen3"):
        return config.use_sliding_window is True and index >= config.max_window_layers
    return config.model_type == "mistral"
