"""How each layer of a GGUF file attends."""

from __future__ import annotations

from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.from_gguf.numbers import GgufNumbers
from spillover.quantize.onnx_export.spec import LayerKind

_WINDOWED_OF = {"gemma2": 2, "gemma3": 6}
"""Of so many layers, all but the last have a window."""
_WINDOW = {"gemma2": 4096}
"""Where a file names none."""
MOST_LAYERS = 1024
_ROTATED_OF = 4
"""SmolLM3: of so many layers, all but the last have rotary positions."""


def layers(numbers: GgufNumbers) -> tuple[LayerKind, ...]:
    """As llama.cpp computes them: it ignores Phi-3's windows. Raises ExportError."""
    n_layer = numbers.whole("block_count")
    if n_layer > MOST_LAYERS:
        raise ExportError(f"the GGUF file gives block_count as {n_layer}")
    if numbers.architecture in _WINDOWED_OF:
        return _windowed(numbers, n_layer)
    if numbers.architecture == "smollm3":
        return tuple(
            LayerKind(rotary=0 if (layer + 1) % _ROTATED_OF else None) for layer in range(n_layer)
        )
    if numbers.architecture == "granite" and numbers.get("rope.scaling.finetuned") is False:
        return (LayerKind(rotary=None),) * n_layer
    return (LayerKind(),) * n_layer


def _windowed(numbers: GgufNumbers, n_layer: int) -> tuple[LayerKind, ...]:
    usual = _WINDOW.get(numbers.architecture)
    if usual is None and not numbers.get("attention.sliding_window"):
        return (LayerKind(),) * n_layer
    window = LayerKind(
        window=numbers.whole("attention.sliding_window", usual),
        rotary=int(numbers.architecture == "gemma3"),
    )
    pattern = numbers.get("attention.sliding_window_pattern")
    if isinstance(pattern, list):
        if len(pattern) != n_layer:
            raise ExportError(f"the GGUF file says of {len(pattern)} layers what they see")
        return tuple(window if is_windowed else LayerKind() for is_windowed in pattern)
    every = numbers.whole("attention.sliding_window_pattern", _WINDOWED_OF[numbers.architecture])
    return tuple(window if layer % every < every - 1 else LayerKind() for layer in range(n_layer))
