"""Models by path: a GGUF file, whole or in parts, an ONNX file, or a folder with one model."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from spillover.models import onnx_folder
from spillover.models.entry import CatalogueError, ModelEntry
from spillover.models.errors import ModelFileError

_MOST_SHOWN = 5
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


def model_at(text: str) -> ModelEntry | None:
    """The model in the file or folder *text*; None where there is neither. Raises CatalogueError
    where something else is there."""
    path = _path(text)
    if onnx_folder.is_onnx(path):
        return _of_onnx(path)
    if path.is_dir():
        path = _only_model_in(path)
    if not path.is_file():
        return None
    if path.suffix.lower() != ".gguf":
        raise CatalogueError(
            f"{path} is not a model file: give a .gguf or .onnx file, or its folder"
        )
    return _of_file(path)


def may_be_model(text: str) -> bool:
    """Whether *text* is the path of a possible model."""
    path = _path(text)
    if not os.path.exists(path):  # Path.exists raises for names that are too long
        return False
    return onnx_folder.is_onnx(path) or path.suffix.lower() == ".gguf"


def model_name(path: Path) -> str:
    """What to call the model in a file or folder when it was given no name."""
    try:
        return onnx_folder.find(path).name if onnx_folder.is_onnx(path) else path.stem
    except ModelFileError:
        return path.name


def part_names(name: str) -> list[str]:
    """The file names of all parts of the model that *name* is a part of, or just *name*."""
    part = _PART.fullmatch(name)
    if part is None:
        return [name]
    count = int(part["count"])
    return [f"{part['stem']}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]


def some_of(names: Sequence[str]) -> str:
    """*names* for a message, the first ones of many: a file's name may claim 99,999 parts."""
    more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
    return ", ".join(names[:_MOST_SHOWN]) + more


def stem_of(name: str) -> str:
    """A file's name without its ending and its number as a part."""
    part = _PART.fullmatch(name)
    return part["stem"] if part else Path(name).stem


def _path(text: str) -> Path:
    return Path(os.path.expanduser(text))  # Path.expanduser raises for ~nobody


def _of_onnx(path: Path) -> ModelEntry:
    try:
        files = onnx_folder.find(path)
    except ModelFileError as error:
        raise CatalogueError(str(error)) from error
    return ModelEntry(name=files.name, path=path, size_bytes=files.size_bytes)


def _of_file(path: Path) -> ModelEntry:
    parts = gguf_parts(path)
    size_bytes = sum(part.stat().st_size for part in parts)
    return ModelEntry(name=stem_of(path.name), path=parts[0], size_bytes=size_bytes)


def gguf_parts(path: Path) -> list[Path]:
    """All files of a GGUF model, of which *path* is one; llama.cpp finds them from the first one.
    Raises CatalogueError."""
    parts = [path.with_name(name) for name in part_names(path.name)]
    missing = [part.name for part in parts if not part.is_file()]
    if missing or not parts:
        raise CatalogueError(
            f"{path} is one of {len(parts)} parts, and {some_of(missing) or 'none'} is not beside "
            "it: get the missing files"
        )
    return parts


def _only_model_in(folder: Path) -> Path:
    """The one GGUF model in *folder*, whether in one file or in parts."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".gguf")
    models = {stem_of(path.name): path for path in reversed(files)}
    if len(models) == 1:
        return next(iter(models.values()))
    if not models:
        raise CatalogueError(f"there is no .gguf file and no ONNX model in the folder {folder}")
    found = ", ".join(sorted(models))
    raise CatalogueError(f"the folder {folder} has several models ({found}): give the file's path")
