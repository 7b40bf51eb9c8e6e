"""The files that a model is stored in."""

from __future__ import annotations

from pathlib import Path

from spillover.models import onnx_folder
from spillover.models.at_path import gguf_parts
from spillover.models.entry import CatalogueError
from spillover.models.errors import ModelFileError
from spillover.quantize.errors import QuantizeError


def files_of(path: Path) -> list[Path]:
    """A GGUF file, or all its parts in order; or an ONNX graph and the files beside it that hold
    its weights. Raises QuantizeError."""
    try:
        return onnx_folder.find(path).files if onnx_folder.is_onnx(path) else gguf_parts(path)
    except (CatalogueError, ModelFileError) as error:
        raise QuantizeError(str(error)) from error


def size_bytes(path: Path) -> int:
    """Bytes of all files of a model."""
    return sum(file.stat().st_size for file in files_of(path))
