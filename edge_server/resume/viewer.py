"""One client that reads a recorded stream."""

from __future__ import annotations

from collections.abc import Callable

from spillover.edge_server.resume.cursor import event_id
from spillover.edge_server.resume.recording import Recording
from spillover.edge_server.wire import sse
from spillover.edge_server.wire.dialect import SSE_HEADERS
from spillover.edge_server.wire.errors import WireError

STREAM_HEADER = "X-Spillover-Stream"
RETRY_MS = 1000
"""A browser waits this long before it connects again."""


class Viewer:
    """An answer made of recorded events after number *after*. *on_leave* is told whether the client
    knows the stream's id, without which it cannot come back; *knows_id*: it does already."""

    is_stream = True
    status = 200

    def __init__(
        self,
        recording: Recording,
        after: int,
        on_leave: Callable[[bool], None],
        *,
        knows_id: bool,
    ) -> None:
        self.log = recording.log
        self.after = after
        self._recording = recording
        self._knows_id = knows_id
        self._on_leave: Callable[[bool], None] | None = on_leave

    @property
    def headers(self) -> dict[str, str]:
        return {**SSE_HEADERS, STREAM_HEADER: self._recording.id, **self._recording.headers}

    def is_decided(self, timeout_s: float | None) -> bool:
        return self._recording.is_decided(timeout_s)

    def refusal(self) -> Exception | None:
        return self._recording.refusal()

    def open(self) -> bytes:
        # The response head, which names the stream, goes out before these bytes.
        self._knows_id = True
        return b"retry: %d\n" % RETRY_MS

    def feed(self, event: bytes) -> bytes:
        self.after += 1
        return sse.with_id(event_id(self._recording.id, self.after), event)

    def silence(self) -> bytes:
        return self._recording.encoder.silence()

    def end(self) -> bytes:
        return b""  # the last event says how the answer ended

    def fail(self, error: WireError) -> bytes:
        """An error of this connection only: without an id, since it is not in any log."""
        return self._recording.encoder.error_event(error)

    def leave(self) -> None:
        on_leave, self._on_leave = self._on_leave, None
        if on_leave is not None:
            on_leave(self._knows_id)
