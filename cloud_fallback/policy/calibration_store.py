"""Where calibrations lie: one file for each model and quantization."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from pathlib import Path

import msgspec
import platformdirs

from spillover.cloud_fallback.policy.calibration import VERSION, Calibration
from spillover.runtime.engine import ModelCard

_SHIPPED = Path(__file__).parent / "calibrations"
_MAX_BYTES = 1 << 20
_KEY = re.compile("[0-9a-f]{16}")


def fingerprint(card: ModelCard) -> str:
    """Names the weights and their quantization, whatever the file is called."""
    # Not the library's description: its words change from version to version.
    facts = (card.architecture, card.n_params, card.size_bytes, card.n_vocab)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


class CalibrationStore:
    """The user's own files, and those that come with Spillover. A file that cannot be read counts
    as none."""

    def __init__(self, data_dir: Path | None = None) -> None:
        base = data_dir or Path(platformdirs.user_data_dir("spillover", appauthor=False))
        self._own = base / "calibrations"

    def path(self, calibration: Calibration) -> Path:
        """Where the user's own calibration of that model lies, or would."""
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", calibration.model).strip(".-")[:64] or "model"
        return self._own / f"{name}-{calibration.fingerprint}.json"

    def find(self, card: ModelCard) -> Calibration | None:
        """The user's own calibration, whatever name the model had then, else a shipped one."""
        return self.of(fingerprint(card))

    def of(self, key: str) -> Calibration | None:
        """As find(), for a fingerprint."""
        if not _KEY.fullmatch(key):
            return None
        for folder in (self._own, _SHIPPED):
            with contextlib.suppress(OSError):
                for path in sorted(folder.glob(f"*-{key}.json")):
                    found = read(path)
                    if found is not None and found.fingerprint == key:
                        return found
        return None

    def write(self, calibration: Calibration) -> Path:
        """Replace the user's own file in one step. Raises OSError."""
        path = self.path(calibration)
        write(path, calibration)
        return path


def read(path: Path) -> Calibration | None:
    """The calibration in *path*; None when it is none, or one of another version."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            return None
        found = msgspec.json.decode(path.read_bytes(), type=Calibration)
    except (OSError, msgspec.DecodeError):
        return None
    sizes = {len(found.means), len(found.scales), len(found.weights), len(found.features)}
    is_whole = len(sizes) == 1 and all(scale > 0.0 for scale in found.scales)
    return found if is_whole and found.version == VERSION else None


def write(path: Path, calibration: Calibration) -> None:
    """Replace *path* in one step. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(calibration), indent=1) + b"\n")
        Path(name).replace(path)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
