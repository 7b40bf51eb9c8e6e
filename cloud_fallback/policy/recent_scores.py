"""What this device's last answers looked like: the threshold of a handoff-rate target."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
import threading
from collections import deque
from pathlib import Path
from typing import Annotated

import msgspec
import platformdirs
from msgspec import Meta

N_KEPT = 256
N_NEEDED = 20
"""Fewer answers than this have no quantile worth the name."""
_WRITE_EVERY = 8
_MAX_BYTES = 1 << 16
_Scores = Annotated[list[float], Meta(max_length=N_KEPT)]


class RecentScores:
    """The highest P(wrong) of each of the last 256 answers of one model: numbers, no text.

    Any thread may use it. They are written to a small file now and then; a file that cannot be
    read or written costs a new start, never an answer.
    """

    def __init__(self, key: str, data_dir: Path | None = None) -> None:
        base = data_dir or Path(platformdirs.user_data_dir("spillover", appauthor=False))
        self._path = base / "scores" / f"{key}.json"
        self._lock = threading.Lock()
        self._scores: deque[float] = deque(self._read(), maxlen=N_KEPT)
        self._n_unwritten = 0

    def __len__(self) -> int:
        return len(self._scores)

    def add(self, score: float) -> None:
        """Take the score of an answer that is over, or was handed over."""
        if not math.isfinite(score):
            return
        with self._lock:
            self._scores.append(round(score, 4))
            self._n_unwritten += 1
            if self._n_unwritten >= _WRITE_EVERY:
                self._write()

    def threshold(self, rate: float) -> float | None:
        """The score that a share *rate* of the last answers reached; None: too few answers."""
        with self._lock:
            ordered = sorted(self._scores)
        if len(ordered) < N_NEEDED:
            return None
        place = (1.0 - rate) * (len(ordered) - 1)
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (place - low) * (ordered[high] - ordered[low])

    def flush(self) -> None:
        """Write what is not written yet."""
        with self._lock:
            if self._n_unwritten:
                self._write()

    def _read(self) -> list[float]:
        try:
            if self._path.stat().st_size > _MAX_BYTES:
                return []
            return msgspec.json.decode(self._path.read_bytes(), type=_Scores)
        except (OSError, msgspec.DecodeError):
            return []

    def _write(self) -> None:
        self._n_unwritten = 0
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fd, name = tempfile.mkstemp(dir=self._path.parent)
            with os.fdopen(fd, "wb") as file:
                file.write(msgspec.json.encode(list(self._scores)))
            Path(name).replace(self._path)
