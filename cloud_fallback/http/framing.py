"""How a stream of bytes is cut into a provider's events."""

from __future__ import annotations

from typing import Protocol

from spillover.cloud_fallback.http.eventstream import EventStream
from spillover.cloud_fallback.http.frame import Frame, Framing
from spillover.cloud_fallback.http.server_sent_events import ServerSentEvents


class Frames(Protocol):
    """One stream. The same bytes give the same frames, however they are split into chunks."""

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


def frames_of(framing: Framing) -> Frames:
    """A new stream of *framing*."""
    return EventStream() if framing == "eventstream" else ServerSentEvents()
