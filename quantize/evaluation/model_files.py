"""The files that a model is stored in."""

from __future__ import annotations

from pathlib import Path

from spillover.models import onnx_folder
from spillover.models.at_path import part_names
from spillover.models.errors import ModelFileError
from spillover.quantize.errors import QuantizeError


def files_of(path: Path) -> list[Path]:
    """A GGUF file, or all its parts in order; or an ONNX graph and the files beside it that hold
    its weights. Raises QuantizeError."""
    if onnx_folder.is_onnx(path):
        try:
            return onnx_folder.find(path).files
        except ModelFileError as error:
            raise QuantizeError(str(error)) from error
    parts = [path.with_name(name) for name in part_names(path.name)]
    missing = [part.name for part in parts if not part.is_file()]
    if missing or not parts:
        raise QuantizeError(
            f"{path} is one of {len(parts)} parts, and {', '.join(missing) or 'none'} is not "
            "beside it: get the missing files"
        )
    return parts


def size_bytes(path: Path) -> int:
    """Bytes of all files of a model."""
    return sum(file.stat().st_size for file in files_of(path))
