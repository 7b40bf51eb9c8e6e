"""Remembers that a model's answers are held to forms, so that the next process prepares for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from spillover.runtime.scheduling.cost_store import CostStore

FORGOTTEN_AFTER_S = 30 * 24 * 3600.0


class FormUse(Struct, frozen=True, kw_only=True):
    """When a process was last asked for a form, in seconds since 1970."""

    used_at: float


class FormHabit:
    """Of one model on this device."""

    def __init__(
        self, cache_dir: Path | None, fingerprint: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = CostStore(cache_dir, f"{fingerprint}-forms", FormUse)
        self._clock = clock

    def is_there(self) -> bool:
        """Whether forms were asked for in the last month."""
        use = self._store.read()
        return use is not None and abs(self._clock() - use.used_at) < FORGOTTEN_AFTER_S

    def note(self) -> None:
        self._store.write(FormUse(used_at=self._clock()))
