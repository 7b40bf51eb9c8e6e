"""A model that exists on this device."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from spillover.models import onnx_folder


class CatalogueError(Exception):
    """There is no such model, or its file is wrong; the message says what to do."""


class ModelEntry(Struct, frozen=True, kw_only=True):
    """A model file that exists. All fields but *name*, *path* and *size_bytes* come from the
    catalogue, or from where the file was fetched."""

    name: str
    path: Path
    """The GGUF file (the first, if the model has several), or an ONNX file or its folder."""
    sha256: str | None = None
    """Of *path*, where that is a file; hexadecimal."""
    size_bytes: int | None = None
    """Of all files that the model needs; None or 0: unknown."""
    licence: str = ""
    n_ctx: int | None = None
    description: str = ""
    source: str = ""
    """Where it was pulled from, as users write it; empty: it was not pulled."""
    remedy: str = "install Spillover again"
    """What to do when the file is damaged."""
    note: str = ""
    """For the user: why it is another file than the name promises."""

    def is_file_of(self, other: ModelEntry) -> bool:
        """Whether both are the same file or folder, by whatever name or link."""
        return self.path.resolve() == other.path.resolve()

    @property
    def n_bytes_on_disk(self) -> int:
        """Bytes of the file *path*, or of the graph and its weights."""
        if onnx_folder.is_onnx(self.path):
            return onnx_folder.find(self.path).size_bytes
        return self.path.stat().st_size


def verify(entry: ModelEntry) -> None:
    """Read the whole file and compare it with the digest that is known. A file given by path has
    nothing to compare with and passes. Raises CatalogueError.
    """
    if entry.sha256 is None:
        return
    found = sha256_of(entry.path)
    if found != entry.sha256:
        raise CatalogueError(
            f"{entry.path} is damaged or was changed (sha256 {found[:16]}… instead of "
            f"{entry.sha256[:16]}…): {entry.remedy}"
        )


def sha256_of(path: Path) -> str:
    """The digest of a whole file, hexadecimal."""
    import hashlib  # slow: it loads OpenSSL

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
