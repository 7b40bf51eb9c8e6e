"""The events of a provider's stream, whatever cuts it into them."""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct


class Frame(Struct, frozen=True, kw_only=True):
    """The event's name ("" where it has none) and data."""

    name: str = ""
    data: bytes
    is_exception: bool = False
    """An eventstream's frame of the message type "exception"; its name is the exception's."""


class Frames(Protocol):
    """One stream: ServerSentEvents or EventStream. The same bytes give the same frames, however
    they are split into chunks."""

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that *data* completes. Raises Malformed."""
        ...

    def end(self) -> list[Frame]:
        """The stream is over: return a last frame that only lacked its end mark."""
        ...

    @property
    def tail(self) -> bytes:
        """The last bytes that belong to no frame, at most a few kilobytes."""
        ...
