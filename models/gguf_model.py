"""Reads what a GGUF model says about itself, whether it is stored in one file or in parts."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from spillover.models.at_path import gguf_parts, part_names, stem_of
from spillover.models.entry import CatalogueError
from spillover.models.errors import ModelFileError
from spillover.models.gguf_header import GgufHeader, TensorInfo, Value, read_header


class GgufModel(Struct, frozen=True, kw_only=True):
    """All files of a model in order, each with its header."""

    parts: tuple[tuple[Path, GgufHeader], ...]

    @property
    def path(self) -> Path:
        """The first file, by which llama.cpp finds the others."""
        return self.parts[0][0]

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(path for path, _ in self.parts)

    @property
    def metadata(self) -> dict[str, Value]:
        """The first file's; the others only say which parts they are."""
        return self.parts[0][1].metadata

    @property
    def tensors(self) -> tuple[TensorInfo, ...]:
        """Of all files; the offset of each counts within its own."""
        return tuple(tensor for _, header in self.parts for tensor in header.tensors)


def read_model(path: Path, *, keep: frozenset[str] = frozenset()) -> GgufModel:
    """The model that the file *path* is, or is a part of. Raises ModelFileError. *keep*: see
    read_header()."""
    try:
        paths = gguf_parts(path) if len(part_names(path.name)) > 1 else [path]
    except CatalogueError as error:
        raise ModelFileError(str(error)) from error
    model = GgufModel(parts=tuple((part, read_header(part, keep=keep)) for part in paths))
    n_parts = model.metadata.get("split.count", 1) or 1
    if n_parts != len(paths):
        raise ModelFileError(
            f"{path} says that its model has {n_parts} parts, and its name that it has "
            f"{len(paths)}: give its files the names that they had, the first one "
            f"{stem_of(path.name)}-00001-of-{n_parts:05}.gguf"
        )
    return model
