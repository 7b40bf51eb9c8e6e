"""How each layer attends, by a config.json."""

from __future__ import annotations

from spillover.quantize.onnx_export.from_hf.config import HfConfig
from spillover.quantize.onnx_export.spec import LayerKind


def layers(config: HfConfig) -> tuple[LayerKind, ...]:
    return tuple(_layer(config, index) for index in range(config.num_hidden_layers))


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
