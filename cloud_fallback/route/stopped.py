"""How one writer's part of an answer ends: all that passes from writer to writer."""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from spillover.cloud_fallback.policy.reason import Reason
from spillover.runtime.errors import SpilloverError
from spillover.runtime.events import EngineEvent, Finished


class Complete(Struct, frozen=True):
    """The answer ends here, with *finished*."""

    finished: Finished


class Stopped(Struct, frozen=True, kw_only=True):
    """Why the last writer stopped, and where: another one is to go on."""

    reason: Reason
    at: float
    """Clock time."""
    bad_chars: int = 0
    """Characters at the end of the text the client has that are no good."""
    withheld: str = ""
    """Good text that was not sent, as it may begin a stop string."""
    held: tuple[EngineEvent, ...] = ()
    """What the local model said and nobody has seen, *withheld* included. It is sent after all
    when no provider goes on."""
    local_end: Finished | None = None
    """The local model's own end of the answer, after *held*."""
    local_error: SpilloverError | None = None
    """The local model cannot go on."""
    cloud_error: Exception | None = None
    """Why the last provider did not go on."""
    may_leave: bool = True
    """False: nothing more of the answer leaves the device."""

    def outdated(self) -> Stopped:
        """The answer has changed since: what the local model had held back has no place in it."""
        return replace(self, bad_chars=0, withheld="", held=(), local_end=None)


WriterEnd: TypeAlias = Complete | Stopped
