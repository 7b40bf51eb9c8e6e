"""How long an answer is waited for, and kept. Pure: the time is passed in."""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

Fate: TypeAlias = Literal["keep", "cancel", "forget"]


class Limits(Struct, frozen=True, kw_only=True):
    """What resumable answers may cost; see the settings of these names."""

    grace_s: float
    keep_s: float
    log_bytes: int
    max_streams: int


class Lifetime(Struct, frozen=True, kw_only=True):
    """Who follows an answer, and since when nobody does."""

    n_viewers: int = 0
    alone_since: float | None = None
    ended_at: float | None = None

    def joined(self) -> Lifetime:
        return replace(self, n_viewers=self.n_viewers + 1, alone_since=None)

    def left(self, now: float) -> Lifetime:
        n_viewers = self.n_viewers - 1
        return replace(self, n_viewers=n_viewers, alone_since=None if n_viewers else now)

    def ended(self, now: float) -> Lifetime:
        return replace(self, ended_at=now)

    def due(self, limits: Limits) -> float | None:
        """When its fate changes by itself; None: it does not."""
        if self.ended_at is not None:
            return self.ended_at + limits.keep_s
        return None if self.alone_since is None else self.alone_since + limits.grace_s

    def fate(self, limits: Limits, now: float) -> Fate:
        """*cancel* an answer that nobody came back to; *forget* one that ended long ago."""
        due = self.due(limits)
        if due is None or now < due:
            return "keep"
        return "cancel" if self.ended_at is None else "forget"
