"""Finds models: those of the catalogue by name, and any GGUF file or ONNX folder by path."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from spillover.models import onnx_folder
from spillover.models.errors import ModelFileError

_FOLDER = Path(__file__).parent
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")

_URL = re.compile(r"[a-z][a-z0-9+.-]+://")
_REPOSITORY = re.compile(r"(?:hf:|hf\.co/)?(?P<name>[\w-][\w.-]*/[\w.-]+?)(?<!\.gguf)(?::[\w.-]+)?")
"""As on Hugging Face: owner/name, possibly with a quantization after a colon."""
_TAGGED = re.compile(r"[\w.-]{2,}:[\w.-]+")


class CatalogueError(Exception):
    """There is no such model, or its file is wrong; the message says what to do."""


class ModelEntry(Struct, frozen=True, kw_only=True):
    """A model file that exists. All fields but *name* and *path* come from the catalogue."""

    name: str
    path: Path
    """The GGUF file (the first, if the model has several), or an ONNX file or its folder."""
    sha256: str | None = None
    size_bytes: int | None = None
    licence: str = ""
    n_ctx: int | None = None
    description: str = ""

    @property
    def n_bytes_on_disk(self) -> int:
        """Bytes of the file, or of all files that the model needs."""
        if onnx_folder.is_onnx(self.path):
            return onnx_folder.find(self.path).size_bytes
        return self.path.stat().st_size


class _Listed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of catalogue.toml."""

    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    size_bytes: Annotated[int, Meta(gt=0)]
    licence: str
    n_ctx: Annotated[int, Meta(gt=0)]
    description: str
    file: str = ""
    source: str = ""
    default: bool = False


def names() -> tuple[str, ...]:
    """The names in the catalogue, in its order."""
    return tuple(_read())


def default_model() -> ModelEntry:
    """The model that is used when none is named."""
    return next(_entry(name, listed) for name, listed in _read().items() if listed.default)


def find(name_or_path: str) -> ModelEntry:
    """The model of a catalogue name, a GGUF or ONNX file, or a folder with one model in it.

    A catalogue name takes precedence over a file of that name: write ./name for the file.
    Raises CatalogueError.
    """
    catalogue = _read()
    if name_or_path in catalogue:
        return _entry(name_or_path, catalogue[name_or_path])
    path = _path(name_or_path)
    if onnx_folder.is_onnx(path):
        return _of_onnx(path)
    if path.is_dir():
        path = _only_model_in(path)
    if not path.is_file():
        raise CatalogueError(_not_found(name_or_path, tuple(catalogue)))
    if path.suffix.lower() != ".gguf":
        raise CatalogueError(
            f"{path} is not a model file: give a .gguf or .onnx file, or its folder"
        )
    return _of_file(path)


def is_model(name_or_path: str) -> bool:
    """Whether it is a catalogue name, or the path of a possible model."""
    if name_or_path in _read():
        return True
    path = _path(name_or_path)
    if not os.path.exists(path):  # Path.exists raises for names that are too long
        return False
    return onnx_folder.is_onnx(path) or path.suffix.lower() == ".gguf"


def model_name(path: Path) -> str:
    """What to call the model in a file or folder when it was given no name."""
    try:
        return onnx_folder.find(path).name if onnx_folder.is_onnx(path) else path.stem
    except ModelFileError:
        return path.name


def verify(entry: ModelEntry) -> None:
    """Read the whole file and compare it with the catalogue. A file given by path has nothing to
    compare with and passes. Raises CatalogueError.
    """
    if entry.sha256 is None:
        return
    with entry.path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != entry.sha256:
        raise CatalogueError(
            f"{entry.path} is damaged or was changed (sha256 {found[:16]}… instead of "
            f"{entry.sha256[:16]}…): install Spillover again"
        )


def _path(text: str) -> Path:
    return Path(os.path.expanduser(text))  # Path.expanduser raises for ~nobody


def _read() -> dict[str, _Listed]:
    tables = tomllib.loads((_FOLDER / "catalogue.toml").read_text("utf-8"))
    return msgspec.convert(tables, dict[str, _Listed])


def _entry(name: str, listed: _Listed) -> ModelEntry:
    if not listed.file:
        raise CatalogueError(
            f"{name} does not come with Spillover: get its file from {listed.source} "
            "and give the path of the file"
        )
    path = _FOLDER / listed.file
    if not path.is_file():
        raise CatalogueError(f"{path} is missing: install Spillover again")
    return ModelEntry(
        name=name,
        path=path,
        sha256=listed.sha256,
        size_bytes=listed.size_bytes,
        licence=listed.licence,
        n_ctx=listed.n_ctx,
        description=listed.description,
    )


def _of_onnx(path: Path) -> ModelEntry:
    try:
        files = onnx_folder.find(path)
    except ModelFileError as error:
        raise CatalogueError(str(error)) from error
    return ModelEntry(name=files.name, path=path)


def _of_file(path: Path) -> ModelEntry:
    part = _PART.fullmatch(path.name)
    if part is None:
        return ModelEntry(name=path.stem, path=path)
    return ModelEntry(name=part["stem"], path=_parts(path, part)[0])


def _parts(path: Path, part: re.Match[str]) -> list[Path]:
    """All files of a split model, which llama.cpp finds from the first one."""
    count = int(part["count"])
    parts = [
        path.with_name(f"{part['stem']}-{number:05}-of-{count:05}.gguf")
        for number in range(1, count + 1)
    ]
    missing = [part.name for part in parts if not part.is_file()]
    if missing or not parts:
        raise CatalogueError(
            f"{path} is one of {count} parts, and {', '.join(missing) or 'none'} is not beside it: "
            "get the missing files"
        )
    return parts


def _only_model_in(folder: Path) -> Path:
    """The one GGUF model in *folder*, whether in one file or in parts."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".gguf")
    models = {_name_of(path): path for path in reversed(files)}
    if len(models) == 1:
        return next(iter(models.values()))
    if not models:
        raise CatalogueError(f"there is no .gguf file and no ONNX model in the folder {folder}")
    found = ", ".join(sorted(models))
    raise CatalogueError(f"the folder {folder} has several models ({found}): give the file's path")


def _name_of(path: Path) -> str:
    part = _PART.fullmatch(path.name)
    return part["stem"] if part else path.stem


def _not_found(name_or_path: str, known: tuple[str, ...]) -> str:
    if _URL.match(name_or_path):
        address = name_or_path.replace("/blob/", "/resolve/", 1)  # the file, not its page
        return (
            f"{name_or_path!r} is an address, and Spillover downloads no models: fetch the file "
            f"(curl -LO {address}) and give its path"
        )
    if repository := _REPOSITORY.fullmatch(name_or_path):
        return (
            f"there is no file or folder {name_or_path!r}. If it is a repository, fetch one of its "
            f".gguf files first (hf download {repository['name']} FILE.gguf --local-dir .) and "
            "give the path of the file"
        )
    if _TAGGED.fullmatch(name_or_path):
        return (
            f"{name_or_path!r} looks like a model of Ollama: Spillover downloads no models. Fetch "
            "a .gguf file of the model and give its path"
        )
    near = difflib.get_close_matches(name_or_path, known, n=1)
    guess = f"did you mean {near[0]}? Else " if near else ""
    return (
        f"there is no model {name_or_path!r}: {guess}give the path of a .gguf file, "
        f"the folder of an ONNX model, or a name of the catalogue ({', '.join(known)})"
    )
