"""How long an answer runs without a client, and how long it is kept. Pure: time is passed in."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta, Struct, field
from msgspec.structs import replace

from spillover.runtime.setting_help import Help

Fate: TypeAlias = Literal["keep", "cancel", "forget"]


class ResumeLimits(Struct, frozen=True, kw_only=True):
    """What resumable answers may cost."""

    grace_s: Annotated[
        float,
        Meta(ge=0, le=3_600),
        Help("Seconds a resumable answer continues after its last client left."),
    ] = field(default=60.0, name="resume_grace_s")
    """After that it is cancelled."""
    keep_s: Annotated[
        float, Meta(ge=0, le=86_400), Help("Seconds a finished resumable answer can be read.")
    ] = field(default=300.0, name="resume_keep_s")
    log_bytes: Annotated[
        int,
        Meta(ge=4_096, le=2**30),
        Help("Most bytes kept of a resumable answer: its newest events."),
    ] = field(default=4 * 2**20, name="resume_log_bytes")
    max_streams: Annotated[
        int,
        Meta(ge=0, le=10_000),
        Help("Most resumable answers at a time, finished ones included; 0 offers none."),
    ] = field(default=32, name="max_resumable")


class Lifetime(Struct, frozen=True, kw_only=True):
    """The followers of an answer, and since when it has none."""

    background: bool = False
    """It goes on without them."""
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

    def due(self, limits: ResumeLimits) -> float | None:
        """When it is due to be cancelled or forgotten; None: never."""
        if self.ended_at is not None:
            return self.ended_at + limits.keep_s
        if self.background or self.alone_since is None:
            return None
        return self.alone_since + limits.grace_s

    def fate(self, limits: ResumeLimits, now: float) -> Fate:
        """*cancel* an answer without a client; *forget* one that ended long ago."""
        due = self.due(limits)
        if due is None or now < due:
            return "keep"
        return "cancel" if self.ended_at is None else "forget"
