"""Remembers what was measured of a model on this device, from one start to the next."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Generic, TypeVar

import msgspec
import platformdirs

from spillover.runtime.json_file import read_own_json, write_json

T = TypeVar("T", bound=msgspec.Struct)


def fingerprint(*facts: object) -> str:
    """Names the model, the library and the settings that a measurement depends on."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


class MeasurementStore(Generic[T]):
    """One small JSON file of a *kind* per *name* in a cache folder. A file that cannot be read or
    written, or holds impossible values, costs a new measurement, never the start. So a *kind* says
    which values are possible."""

    def __init__(self, cache_dir: Path | None, name: str, kind: type[T]) -> None:
        folder = cache_dir or Path(platformdirs.user_cache_dir("spillover"))
        self._path = folder / "costs" / f"{name}.json"
        self._kind = kind

    def read(self) -> T | None:
        return read_own_json(self._path, self._kind)

    def write(self, costs: T) -> None:
        with contextlib.suppress(OSError):
            write_json(self._path, costs)
