"""The files beside the graph, from the metadata of a GGUF file."""

from __future__ import annotations

from pathlib import Path

from spillover.quantize.onnx_export.errors import ExportError
from spillover.quantize.onnx_export.gguf_source import GgufSource


def write_gguf_companions(source: GgufSource, folder: Path) -> list[str]:
    """Write them; what the user should know. Raises ExportError."""
    raise ExportError("GGUF vocabularies are not read yet")
