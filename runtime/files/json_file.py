"""Small JSON files that keep one value each: read as a whole, and replaced in one step."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import platformdirs

T = TypeVar("T")
StructT = TypeVar("StructT", bound=msgspec.Struct)

_log = logging.getLogger(__name__)

_MAX_BYTES = 1 << 20
_DAMAGE = (msgspec.DecodeError, RecursionError)


def read_json(path: Path, kind: type[T]) -> T | None:
    """The value in *path*; None if the file is missing, too large, damaged or of another kind."""
    try:
        return _read(path, kind)
    except (OSError, *_DAMAGE):
        return None


def read_own_json(path: Path, kind: type[T]) -> T | None:
    """Like read_json() for a file that only Spillover writes: a damaged one is moved aside, so that
    a new one can replace it and the damage can be examined."""
    try:
        return _read(path, kind)
    except OSError:
        return None
    except _DAMAGE as error:
        aside = path.with_name(f"{path.name}.damaged")
        with contextlib.suppress(OSError):
            path.replace(aside)
        _log.warning("%s is damaged (%s); moved to %s, starting afresh", path, error, aside.name)
        return None


def _read(path: Path, kind: type[T]) -> T:
    if path.exists() and not path.is_file():
        raise msgspec.DecodeError("it is not a file")  # reading a device or a pipe may never end
    with path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise msgspec.DecodeError(f"it is larger than {_MAX_BYTES} bytes")
    return msgspec.json.decode(content, type=kind)


def write_json(path: Path, value: Any, *, indent: int | None = None) -> None:
    """Replace *path*, and create its folder if necessary. Raises OSError."""
    content = msgspec.json.encode(value)
    if indent is not None:
        content = msgspec.json.format(content, indent=indent) + b"\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def cache_folder(cache_dir: Path | None) -> Path:
    """The folder for what can be made again: *cache_dir*, or the user's own."""
    return cache_dir or Path(platformdirs.user_cache_dir("spillover"))


def fingerprint(*facts: object) -> str:
    """A key for the model, the library and the settings that a measurement depends on."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


class MeasurementStore(Generic[StructT]):
    """Remembers what was measured about a model on this device, in one file per *name* in a cache
    folder. A file that cannot be read or written, or holds impossible values, costs a new
    measurement but never prevents a start. So a *kind* declares which values are possible."""

    def __init__(self, cache_dir: Path | None, name: str, kind: type[StructT]) -> None:
        self._path = cache_folder(cache_dir) / "costs" / f"{name}.json"
        self._kind = kind

    def read(self) -> StructT | None:
        return read_own_json(self._path, self._kind)

    def write(self, costs: StructT) -> None:
        with contextlib.suppress(OSError):
            write_json(self._path, costs)
