"""The same trained model in every form that a backend reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from spillover.models.catalogue import find
from spillover.quantize.onnx_export.export import export
from spillover.quantize.onnx_export.options import ExportOptions
from tests import plain_decoder
from tests.storyteller import STORYTELLER


def _bundled(name: str) -> Callable[[Path], Path]:
    return lambda target: Path(find(name).path)


def _exported(options: ExportOptions) -> Callable[[Path], Path]:
    def make(target: Path) -> Path:
        export(STORYTELLER, target, options, lambda n_done, n_all: None)
        return target

    return make


MAKERS: dict[str, Callable[[Path], Path]] = {
    "gguf": _bundled("storyteller"),
    "onnx-int8": _bundled("storyteller-onnx"),
    "onnx-int4": _exported(ExportOptions(weights="int4")),
    "onnx-fp16": _exported(ExportOptions(weights="fp16")),
    "onnx-fp32": _exported(ExportOptions(weights="fp32", external_data=True)),
    "onnx-genai": _exported(ExportOptions(weights="int8", interface="genai")),
    "onnx-plain": lambda target: plain_decoder.write(STORYTELLER, target),
    "onnx-merged": lambda target: plain_decoder.write(STORYTELLER, target, merged=True),
}
"""By name: what makes the model in a folder that does not exist yet, and gives its path."""
