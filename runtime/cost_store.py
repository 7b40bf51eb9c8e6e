"""Remembers what was measured of a model on this device, from one start to the next."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import msgspec
import platformdirs

from spillover.runtime.calibration import SavedCalibration

_MAX_BYTES = 1 << 20


class CostStore:
    """One small JSON file per *fingerprint* in a cache folder. A file that cannot be read or
    written costs a new measurement, never the start."""

    def __init__(self, cache_dir: Path | None, fingerprint: str) -> None:
        folder = cache_dir or Path(platformdirs.user_cache_dir("spillover"))
        self._path = folder / "costs" / f"{fingerprint}.json"

    def read(self) -> SavedCalibration | None:
        try:
            if self._path.stat().st_size > _MAX_BYTES:
                return None
            return msgspec.json.decode(self._path.read_bytes(), type=SavedCalibration)
        except (OSError, msgspec.DecodeError):
            return None

    def write(self, costs: SavedCalibration) -> None:
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fd, name = tempfile.mkstemp(dir=self._path.parent)
            with os.fdopen(fd, "wb") as file:
                file.write(msgspec.json.encode(costs))
            Path(name).replace(self._path)
