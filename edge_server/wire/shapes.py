"""The two shapes of an answer, whatever its dialect: bit by bit, or whole."""

from __future__ import annotations

from typing import Protocol

from spillover.cloud_fallback.events import StreamEvent
from spillover.edge_server.wire.errors import WireError


class Encoder(Protocol):
    """One stream's events to the bytes of its body."""

    def start(self) -> bytes:
        """What stands before the first event's bytes."""
        ...

    def opening(self) -> bytes:
        """An event without content, for a stream that has something to say at once but has no
        such start."""
        ...

    def encode(self, event: StreamEvent) -> bytes:
        """The bytes of one event; often none."""
        ...

    def end(self) -> bytes:
        """What stands after the last event; nothing after a failure."""
        ...

    def fail(self, error: WireError) -> bytes:
        """An error in the middle of a stream; nothing follows it."""
        ...


class Whole(Protocol):
    """Takes all events of an answer that is not streamed."""

    def add(self, event: StreamEvent) -> None: ...
    def body(self) -> bytes:
        """The JSON of the answer, or WireError."""
        ...
