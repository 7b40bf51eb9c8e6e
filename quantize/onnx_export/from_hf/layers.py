"""How each layer attends, by a config.json."""

from __future__ import annotations

from spillover.quantize.onnx_export.from_hf.config import HfConfig
from spillover.quantize.onnx_export.spec import LayerKind


def layers(config: HfConfig) -> tuple[LayerKind, ...]:
    return tuple(_layer(config, index) for index in range(config.num_hidden_layers))


def _layer(config: HfConfig, index: int) -> LayerKind:
    is_windowed = _is_windowed(config, index)
    return LayerKind(
        window=config.sliding_window if is_windowed else None,
        rotary=_rotary(config, index, is_windowed=is_windowed),
    )


def _rotary(config: HfConfig, index: int, *, is_windowed: bool) -> int | None:
    """The place of the layer's rotary in rotaries(); None for a layer without."""
    if config.model_type == "gemma3_text":
        return int(is_windowed)
    if config.model_type == "smollm3":
        listed = config.no_rope_layers
        if listed is not None and index < len(listed):
            # The list says which layers have one.
            return 0 if listed[index] else None
        return 0 if (index + 1) % config.no_rope_layer_interval else None
    return 0


def _is_windowed(config: HfConfig, index: int) -> bool:
    if config.sliding_window is None or config.use_sliding_window is False:
        return False
    if config.model_type in ("llama", "granite"):
        return False
    if config.layer_types is not None:
        return index < len(config.layer_types) and "sliding" in config.layer_types[index]
    if config.model_type in ("qwen2", "qwen3"):
        return config.use_sliding_window is True and index >= config.max_window_layers
    if config.model_type in ("gemma2", "gemma3_text"):
        return (index + 1) % config.sliding_window_pattern != 0
    return config.model_type in ("mistral", "phi3")
