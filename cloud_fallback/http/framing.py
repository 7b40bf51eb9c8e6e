"""Cuts a stream of bytes into a provider's events."""

from __future__ import annotations

from typing import Protocol

from spillover.cloud_fallback.http.eventstream import EventStream
from spillover.cloud_fallback.http.frame import Frame, Framing
from spillover.cloud_fallback.http.server_sent_events import ServerSentEvents


class Frames(Protocol):
    """The state of one stream. The same bytes give the same frames, however they are cut."""

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that *data* completes. Raises Malformed."""
        ...

    def end(self) -> list[Frame]:
        """The stream is over: a last frame that only lacked its end mark."""
        ...

    @property
    def tail(self) -> bytes:
        """The last bytes that belong to no frame, bounded; for end()'s caller."""
        ...


def frames_of(framing: Framing) -> Frames:
    """A new stream of *framing*."""
    return EventStream() if framing == "eventstream" else ServerSentEvents()
