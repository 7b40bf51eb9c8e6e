"""One client that reads a recording."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from spillover.edge_server.resume.answer_log import AnswerLog, CursorTooOld
from spillover.edge_server.resume.cursor import event_id
from spillover.edge_server.web import sse
from spillover.edge_server.wire.errors import WireError, body_of

STREAM_HEADER = "X-Spillover-Stream"
RETRY_MS = 1000
"""A browser waits so long before it connects again."""
OPENING = b"retry: %d\n" % RETRY_MS


class Viewer:
    """A cursor in the log of an answer, from *after* on. *on_leave* gets whether the client has
    learned the name of the stream, without which it cannot come back."""

    def __init__(
        self, stream_id: str, log: AnswerLog, after: int, on_leave: Callable[[bool], None]
    ) -> None:
        self.log = log
        self.after = after
        self.headers = {STREAM_HEADER: stream_id}
        self.was_told = False
        self._stream_id = stream_id
        self._on_leave: Callable[[bool], None] | None = on_leave

    def encode(self, events: list[bytes]) -> bytes:
        """The bytes of the next *events*, with their ids."""
        first = self.after + 1
        self.after += len(events)
        return b"".join(
            sse.with_id(event_id(self._stream_id, number), event)
            for number, event in enumerate(events, first)
        )

    def fail(self, error: WireError) -> bytes:
        """An error of this connection only: without an id, as it stands in no log."""
        return sse.encode(body_of(error))

    def too_slow(self) -> bytes:
        """The last bytes for a client that fell behind the beginning of the log."""
        message = f"the events after {self.after} are no longer kept: this client is too slow"
        return self.fail(WireError(410, "gone_error", message))

    def leave(self) -> None:
        """The client is gone, or has everything. Calling it again does no harm."""
        on_leave, self._on_leave = self._on_leave, None
        if on_leave is not None:
            on_leave(self.was_told)

    def stream(self, keep_alive_s: float) -> Iterator[bytes]:
        """The body of a response in a thread of its own."""
        self.was_told = True
        yield OPENING
        while True:
            if not self.log.wait(self.after, keep_alive_s):
                yield sse.COMMENT
                continue
            try:
                events, ended = self.log.read(self.after)
            except CursorTooOld:
                yield self.too_slow()
                return
            if events:
                yield self.encode(events)
            if ended:
                return
