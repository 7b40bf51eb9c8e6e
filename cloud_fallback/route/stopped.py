"""How one writer's part of an answer ended: all that passes from writer to writer."""

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
    """Why the last writer stopped, and where: another one should continue."""

    reason: Reason
    at: float
    """Clock time."""
    bad_chars: int = 0
    """How many characters at the end of the client's text are bad."""
    withheld: str = ""
    """Good text that was not sent because it may begin a stop string."""
    held: tuple[EngineEvent, ...] = ()
    """What the local model wrote and the client has not seen, including *withheld*. It is sent
    after all when no provider continues."""
    local_end: Finished | None = None
    """The local model's own end of the answer, after *held*."""
    local_error: SpilloverError | None = None
    """The local model cannot continue."""
    cloud_error: Exception | None = None
    """Why the last provider did not continue."""
    may_leave: bool = True
    """False: nothing more of the answer may leave the device."""

    def outdated(self) -> Stopped:
        """Without what the local model had held back, because the answer has changed since."""
        return replace(self, bad_chars=0, withheld="", held=(), local_end=None)


WriterEnd: TypeAlias = Complete | Stopped
