"""The commands that make what a plan names; they run as they are printed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from spillover.models.at_path import stem_of
from spillover.quantize.gguf.file_types import FILE_TYPES

_STORED = re.compile(rf"(?<=.)[-._](?:{'|'.join(FILE_TYPES)})", re.IGNORECASE)
"""What a file's name may end with: the type of its weights."""
_MOST_NAMES = 100


def new_name(model: Path, what: str, ending: str = "") -> Path:
    """A name in the current folder that nothing has yet: the model's, with *what* is made of it."""
    stem = model.resolve().name if model.is_dir() else stem_of(model.name)
    found = _STORED.search(stem)
    if found is not None and found.end() == len(stem):
        stem = stem[: found.start()]
    numbers = ("", *(f"-{i}" for i in range(2, _MOST_NAMES)))
    names = [Path(f"{stem}-{what}{number}{ending}") for number in numbers]
    return next((name for name in names if not name.exists()), names[0])


def gguf_export(model: Path, target: Path) -> str:
    """Makes a GGUF file of a folder."""
    return f"spillover export gguf {typed(model)} {typed(target)} --type F16"


def onnx_export(model: Path, target: Path, flags: Iterable[str]) -> str:
    """Makes an ONNX model of a folder or of a GGUF file."""
    return " ".join([f"spillover export onnx {typed(model)} {typed(target)}", *flags])


def quantization(source: Path, target: Path, file_type: str, flags: Iterable[str]) -> str:
    """Makes a smaller GGUF file of another one."""
    asked = f"spillover quantize run {typed(source)} {typed(target)} --type {file_type}"
    return " ".join([asked, *flags])


def typed(path: Path) -> str:
    """A path as an argument of a shell's command, which is never taken for an option."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)
