"""Records an answer as it is generated, with or without readers."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable

from spillover.cloud_fallback.events import StreamEvent
from spillover.edge_server.answers.event_log import EventSource
from spillover.edge_server.answers.service import failure_of
from spillover.edge_server.resume.stream_log import StreamLog
from spillover.edge_server.wire import sse
from spillover.edge_server.wire.dialect import StreamEncoder
from spillover.edge_server.wire.errors import WireError, from_exception
from spillover.edge_server.wire.response_format import with_field
from spillover.runtime.errors import log_defect
from spillover.runtime.events import Finished

_LOG = logging.getLogger(__name__)


class Recording:
    """One answer and its log. Each event is encoded once, in the thread of the answer, before it
    can be read; the last event of the log always says how the answer ended."""

    def __init__(
        self,
        owner: str,
        encoder: StreamEncoder,
        log: StreamLog,
        on_end: Callable[[Recording], None],
        stream_id: str | None = None,
    ) -> None:
        self.id = stream_id or secrets.token_hex(16)
        """128 random bits that only the client knows, unlike the id in the chunks."""
        self.owner = owner
        self.encoder = encoder
        self.log = log
        self._on_end = on_end
        self._why: str | None = None

    def begin(self, source: EventSource, format_field: str | None = None) -> None:
        """Record the events of *source*, whose log has no other reader. *format_field* is the
        body's field that asks for a response format."""
        self._source = source
        self._format_field = format_field
        # The first event goes out at once: a connection that breaks early is resumed by its id.
        self._append(self.encoder.open() or self.encoder.empty_event())
        source.log.subscribe(self._take, at_once=True)

    def is_decided(self, timeout_s: float | None) -> bool:
        return self._source.is_decided(timeout_s)

    @property
    def headers(self) -> dict[str, str]:
        """What names the answer and its writers so far."""
        return self._source.headers

    def refusal(self) -> Exception | None:
        """Why the answer was never begun."""
        return with_field(self._source.refusal(), self._format_field)

    def stop(self, why: str) -> None:
        """End the answer; its last event will say *why*."""
        self._why = why
        self._source.cancellation.cancel()

    def _take(self) -> None:
        """In the writer's thread, under the lock of its log."""
        events, ended = self._source.log.take()
        if self.log.closed:
            return
        try:
            for event in events:
                self._append(self._encode(event))
            if ended:
                refusal = self.refusal()
                if refusal is not None:
                    self._append(self.encoder.feed(failure_of(refusal)))
                self._append(self.encoder.end())
                self._close()
        except Exception as error:
            log_defect(_LOG, "an answer could not be recorded", error)
            self._append(self.encoder.fail(from_exception(error)))
            self._close()
            self._source.cancellation.cancel()

    def _close(self) -> None:
        self.log.close()
        self._on_end(self)

    def _encode(self, event: StreamEvent) -> bytes:
        if self._why and isinstance(event, Finished) and event.reason == "cancelled":
            why, self._why = self._why, None
            return self.encoder.fail(WireError(499, why))
        return self.encoder.feed(event)

    def _append(self, chunk: bytes) -> None:
        for event in sse.split(chunk):
            self.log.append(event)
