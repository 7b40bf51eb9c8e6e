"""From events to the bytes of a response's body: the contract of all dialects."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from spillover.cloud_fallback.events import Failed, StreamEvent
from spillover.edge_server.wire import sse
from spillover.edge_server.wire.errors import WireError
from spillover.runtime.events import Finished

SSE_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
JSON_HEADERS = {"Content-Type": "application/json"}


class Encoder(ABC):
    """Encodes one answer. A stream's bytes come from every method; those of a whole answer from
    end() or fail() alone."""

    is_stream: ClassVar[bool]
    headers: ClassVar[Mapping[str, str]]

    def open(self) -> bytes:
        """What precedes the first event's bytes."""
        return b""

    @abstractmethod
    def feed(self, event: StreamEvent) -> bytes:
        """The bytes of one event; often none."""

    def silence(self) -> bytes:
        """What shows a client that its stream is alive, and finds out whether the client is."""
        return b""

    @abstractmethod
    def end(self) -> bytes:
        """What follows the last event; nothing after a failure. A whole answer that is not
        complete raises WireError."""

    @abstractmethod
    def fail(self, error: WireError) -> bytes:
        """The error in the dialect's shape; nothing follows it."""


class StreamEncoder(Encoder):
    """Encodes a stream of server-sent events."""

    is_stream = True
    headers = SSE_HEADERS

    def __init__(self) -> None:
        self._failed = False

    def silence(self) -> bytes:
        return sse.KEEP_ALIVE

    def end(self) -> bytes:
        return b""

    def fail(self, error: WireError) -> bytes:
        self._failed = True
        return self.error_event(error)

    @abstractmethod
    def empty_event(self) -> bytes:
        """An event that adds nothing: the first one of a resumable stream without an open()."""

    @abstractmethod
    def error_event(self, error: WireError) -> bytes:
        """The event of an error, which may concern one connection of several."""


class WholeEncoder(Encoder):
    """Collects an answer of *n* choices, and encodes it as one body of JSON at the end."""

    is_stream = False
    headers = JSON_HEADERS

    def __init__(self, n: int) -> None:
        self._n = n
        self.finished: dict[int, Finished] = {}
        self._failed: Failed | None = None

    def feed(self, event: StreamEvent) -> bytes:
        match event:
            case Finished():
                self.finished[event.choice] = event
            case Failed():
                self._failed = event
            case _:
                self.collect(event)
        return b""

    def end(self) -> bytes:
        """The body. An answer that broke off is an error, never half an answer."""
        if self._failed is not None:
            raise failure(self._failed)
        is_cancelled = any(event.reason == "cancelled" for event in self.finished.values())
        if is_cancelled or len(self.finished) < self._n:
            raise cancelled()
        return self.body()

    @abstractmethod
    def collect(self, event: StreamEvent) -> None:
        """Keep what the body needs of *event*."""

    @abstractmethod
    def body(self) -> bytes:
        """The JSON of the complete answer."""


def failure(event: Failed) -> WireError:
    """The error that an answer ended with."""
    return WireError(500, event.code, event.message)


def cancelled() -> WireError:
    """The error of an answer that somebody cancelled."""
    return WireError(499, "cancelled", "the answer was cancelled")


def valid_text(text: str) -> str:
    """*text* as JSON can carry it: half a surrogate pair, which a provider may send, becomes
    U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
