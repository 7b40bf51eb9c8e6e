"""The models that were pulled: a record for each, and the files that belong to Spillover alone."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
import platformdirs
from msgspec import Meta, Struct

from spillover.models.entry import CatalogueError, ModelEntry
from spillover.models.errors import ModelFileError
from spillover.models.small_files import read_small

NAME = r"[A-Za-z0-9][\w.+-]{0,99}(?::[\w.+-]{1,50})?"
"""What a model may be called."""

_MOST_NAME_BYTES = 200
"""Names of files may have 255."""


class PulledModel(Struct, frozen=True, kw_only=True):
    """The record of a model that was fetched and checked."""

    name: Annotated[str, Meta(pattern=f"^{NAME}$")]
    source: str
    """As users write it."""
    path: str
    """The GGUF file (the first of several), or the folder of an ONNX model; absolute."""
    files: tuple[str, ...]
    """All that was fetched; absolute."""
    sha256: str | None = None
    """Of *path*, if that is a file."""
    size_bytes: Annotated[int, Meta(ge=0)] = 0
    licence: str = ""
    description: str = ""
    pulled_s: float = 0.0
    """When, in seconds since 1970."""

    @property
    def entry(self) -> ModelEntry:
        return ModelEntry(
            name=self.name,
            path=Path(self.path),
            sha256=self.sha256,
            size_bytes=self.size_bytes,
            licence=self.licence,
            source=self.source,
            description=self.description or f"pulled from {self.source.partition('?')[0]}",
            remedy=f"`spillover rm {self.name}`, then `{self.command}`",
        )

    @property
    def command(self) -> str:
        """What to type to fetch it where nothing of it is here."""
        return f"spillover pull {shlex.quote(self.source)} --name {self.name}"

    @property
    def is_complete(self) -> bool:
        """Whether all files are still there: those in another program's cache may be gone."""
        return all(Path(file).is_file() for file in self.files)

    @property
    def has_its_size(self) -> bool:
        """Whether the files, which are there, have as many bytes as when they were pulled."""
        found = sum(Path(file).stat().st_size for file in self.files)
        return self.size_bytes in (0, found)  # 0: unknown


class ModelStore:
    """A folder of its own: NAME.json for each model, and files/NAME/ where its files are ours."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_folder()

    def all(self) -> list[PulledModel]:
        """The models in the order of their names; records that are damaged are left out."""
        records = (self._read(path) for path in sorted(self.folder.glob("*.json")))
        return [record for record in records if record is not None]

    def unreadable(self) -> list[str]:
        """The names of the models whose records are damaged or of a newer version."""
        paths = sorted(self.folder.glob("*.json"))
        return [path.stem.replace("@", ":") for path in paths if self._read(path) is None]

    def get(self, name: str) -> PulledModel | None:
        """The model of that name, whatever its case."""
        return next((m for m in self.all() if m.name.casefold() == name.casefold()), None)

    def latest(
        self, *, but: Callable[[PulledModel], bool] = lambda model: False
    ) -> PulledModel | None:
        """The complete model that was pulled last, except those that are *but*."""
        complete = [model for model in self.all() if model.is_complete and not but(model)]
        return max(complete, key=lambda model: model.pulled_s, default=None)

    def find(self, name: str) -> ModelEntry | None:
        """The model of that name, if it was pulled. Raises CatalogueError if its files are gone, or
        its record cannot be read."""
        model = self.get(name)
        if model is None and is_name(name) and self._record(name).is_file():
            raise CatalogueError(
                f"the record of {name} in {self.folder} is damaged, or of a newer version: "
                f"`spillover rm {name}` removes it with its files; then pull the model again"
            )
        if model is None:
            return None
        if not model.is_complete:
            raise CatalogueError(
                f"the files of {model.name} are gone ({model.path}): `spillover pull {model.name}` "
                "fetches them again"
            )
        return model.entry

    def files_folder(self, name: str) -> Path:
        """Where the files of the model *name* belong if Spillover keeps them itself: a folder in
        which no other model has files."""
        others = (model for model in self.all() if model.name.casefold() != name.casefold())
        needed = [Path(file) for model in others for file in model.files]
        first = self.folder / "files" / _file_name(name)
        folder, n = first, 1
        while any(file.is_relative_to(folder) for file in needed):
            n += 1
            folder = first.with_name(f"{first.name}@{n}")
        return folder

    def lock_of(self, name: str) -> Path:
        """What is locked while the model *name* is fetched."""
        return self.folder / ".locks" / _file_name(name.casefold())

    def add(self, model: PulledModel) -> PulledModel:
        """Record a model whose files are complete and checked. Raises OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # A device without a clock of its own begins in the past until it has asked for the time.
        latest_s = max((other.pulled_s for other in self.all()), default=0.0)
        model = msgspec.structs.replace(model, pulled_s=max(time.time(), latest_s + 1e-3))
        fd, temporary = tempfile.mkstemp(dir=self.folder, suffix=".part")
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(model)))
            os.replace(temporary, self._record(model.name))
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return model

    def remove(self, model: PulledModel) -> int:
        """Delete the files of a model, as far as no other record needs them, and forget it; return
        the bytes that became free. Raises OSError; the model is then still known."""
        needed = self._needed(but=model)
        root = self.folder / "files"
        folders = {self.files_folder(model.name)}
        n_bytes = 0
        for file in map(Path, set(model.files) - needed):
            n_bytes += _delete(file)
            if file.is_relative_to(root):
                folders.add(root / file.relative_to(root).parts[0])
        for folder in folders:
            _delete_folder(folder, needed)
        self._record(model.name).unlink(missing_ok=True)
        return n_bytes

    def has_left(self, name: str) -> bool:
        """Whether there is something of a model without a record that can be read."""
        places = (self._record(name), self.files_folder(name))
        needed = self._needed()
        return is_name(name) and any(
            place.exists() and not any(Path(file).is_relative_to(place) for file in needed)
            for place in places
        )

    def discard(self, name: str) -> int:
        """Delete what there is of a model without a record that can be read, such as the beginning
        of its file; return the bytes that became free. Raises OSError."""
        if not is_name(name):
            return 0
        n_bytes = _delete_folder(self.files_folder(name), self._needed())
        self._record(name).unlink(missing_ok=True)
        return n_bytes

    def _needed(self, but: PulledModel | None = None) -> set[str]:
        """The files of all models, or of the others."""
        others = (model for model in self.all() if but is None or model.name != but.name)
        return {file for model in others for file in model.files}

    def _record(self, name: str) -> Path:
        return self.folder / f"{_file_name(name)}.json"

    def _read(self, path: Path) -> PulledModel | None:
        with contextlib.suppress(OSError, msgspec.DecodeError, ModelFileError):
            content = read_small(path)
            if content is not None:
                return msgspec.json.decode(content, type=PulledModel)
        return None


def is_name(text: str) -> bool:
    """Whether a model may be called *text*."""
    return re.fullmatch(NAME, text) is not None and len(text.encode()) <= _MOST_NAME_BYTES


def default_folder() -> Path:
    """Where models are kept when the owner names no folder: in the user's data folder."""
    return platformdirs.user_data_path("spillover", appauthor=False) / "models"


def _file_name(name: str) -> str:
    """*name* as a file's name on every system."""
    return re.sub(r"[^\w.+-]", "@", name)


def _delete(file: Path) -> int:
    """Delete a file, or a link and what it links to in the cache of Hugging Face's client, but not
    what a user has linked it to; return the bytes that became free."""
    n_bytes = 0
    for path in (_blob_of(file), file):
        if path is not None and os.path.lexists(path):
            n_bytes += path.lstat().st_size if path.is_file() and not path.is_symlink() else 0
            path.unlink()
    return n_bytes


def _blob_of(link: Path) -> Path | None:
    """What a file of that cache links to: in REPOSITORY/snapshots/COMMIT, to REPOSITORY/blobs."""
    if not link.is_symlink():
        return None
    blob = Path(os.path.normpath(link.parent / link.readlink()))
    is_of_cache = blob.parent.name == "blobs" and blob.parent.parent / "snapshots" in link.parents
    return blob if is_of_cache else None


def _delete_folder(folder: Path, needed: set[str]) -> int:
    """Delete a folder unless a file in it is needed; return the bytes that became free."""
    if not folder.is_dir() or any(Path(file).is_relative_to(folder) for file in needed):
        return 0
    n_bytes = sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir())
    shutil.rmtree(folder)
    return n_bytes
