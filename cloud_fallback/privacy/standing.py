"""What the user has decided about a provider for good: "always" and "never", kept in a file."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from spillover.runtime.files.json_file import read_own_json, write_json

FILE_NAME = "consents.json"
MAX_STANDING = 256

_log = logging.getLogger(__name__)


class StandingConsent(Struct, frozen=True, kw_only=True):
    """*owner*'s decision about all answers by *provider*, the name in the configuration."""

    owner: str
    provider: str
    granted: bool
    at: datetime


class _File(Struct):
    decisions: Annotated[list[StandingConsent], Meta(max_length=MAX_STANDING)] = []


class StandingConsents:
    """The decisions in *path*, a file that only its owner can read. It is read each time, so that
    one program may withdraw what another was told. What cannot be read was never granted; what
    cannot be written holds as long as the program runs. Any thread may use it."""

    def __init__(self, path: Path | None) -> None:
        """*path* None: there is no file."""
        self._path = path
        self._lock = threading.Lock()
        self._unwritten: list[StandingConsent] = []

    def find(self, owner: str, provider: str) -> bool | None:
        """Whether answers of *owner* by *provider* are granted for good; None: not decided."""
        decided = (d.granted for d in self.all() if (d.owner, d.provider) == (owner, provider))
        return next(decided, None)

    def all(self) -> list[StandingConsent]:
        """All decisions, newest first."""
        with self._lock:
            return self._read()

    def decide(self, owner: str, provider: str, granted: bool) -> None:
        """Keep a decision."""
        new = StandingConsent(owner=owner, provider=provider, granted=granted, at=datetime.now(UTC))
        with self._lock:
            others = [d for d in self._read() if (d.owner, d.provider) != (owner, provider)]
            self._write([new, *others][:MAX_STANDING])

    def forget(self, provider: str | None = None) -> int:
        """Forget what was decided about *provider*, or everything; returns how many decisions."""
        with self._lock:
            known = self._read()
            kept = [d for d in known if provider is not None and d.provider != provider]
            if len(kept) < len(known):
                self._write(kept)
            return len(known) - len(kept)

    def _read(self) -> list[StandingConsent]:
        if self._path is None or self._unwritten:
            return self._unwritten
        file = read_own_json(self._path, _File)
        return [] if file is None else file.decisions

    def _write(self, decisions: list[StandingConsent]) -> None:
        self._unwritten = []
        if self._path is None:
            self._unwritten = decisions
            return
        try:
            write_json(self._path, _File(decisions), indent=2)
        except OSError as error:
            _log.warning(
                "%s cannot be written, so it is forgotten at the end: %s", FILE_NAME, error
            )
            self._unwritten = decisions
