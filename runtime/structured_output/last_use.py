"""Remembers when a model was last asked for structured output, so that the next worker prepares."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from spillover.runtime.files.json_file import MeasurementStore

RECENT_S = 30 * 24 * 3600.0


class StructuredOutputUse(Struct, frozen=True, kw_only=True):
    """When structured output was last asked for, in seconds since 1970."""

    used_at: Annotated[float, Meta(ge=0)]


class LastUse:
    """The last use of structured output by one model on this device."""

    def __init__(
        self, cache_dir: Path | None, fingerprint: str, clock: Callable[[], float] = time.time
    ) -> None:
        name = f"{fingerprint}-structured-output"
        self._store = MeasurementStore(cache_dir, name, StructuredOutputUse)
        self._clock = clock

    def is_recent(self) -> bool:
        """Whether it was in the last month."""
        use = self._store.read()
        return use is not None and abs(self._clock() - use.used_at) < RECENT_S

    def note(self) -> None:
        self._store.write(StructuredOutputUse(used_at=self._clock()))
