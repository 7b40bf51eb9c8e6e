"""What goes to one client: the contract of all answers, and those of a single connection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar

from spillover.edge_server.answers.event_log import EventSource, Log
from spillover.edge_server.answers.service import failure_of
from spillover.edge_server.wire.dialect import Encoder
from spillover.edge_server.wire.errors import WireError, from_exception
from spillover.edge_server.wire.response_format import with_field

Event = TypeVar("Event")


class Answer(Protocol[Event]):
    """A response that comes later or bit by bit. The driver asks refusal() as soon as the answer
    is_decided(). Then it calls open(), feed() for each event of *log* past *after*, silence()
    when none came for a while, and end(); fail() instead when something breaks; leave() in any
    case."""

    @property
    def log(self) -> Log[Event]: ...
    @property
    def after(self) -> int: ...
    @property
    def is_stream(self) -> bool:
        """Whether the head goes out before the first event. If not, *status* and *headers* count
        once end() or fail() has returned."""
        ...

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    def is_decided(self, timeout_s: float | None, /) -> bool:
        """Whether it is known within *timeout_s* that the answer begins, or that it does not."""
        ...

    def refusal(self) -> Exception | None:
        """Why the answer does not begin."""
        ...

    def open(self) -> bytes: ...
    def feed(self, event: Event, /) -> bytes: ...
    def silence(self) -> bytes: ...
    def end(self) -> bytes: ...
    def fail(self, error: WireError) -> bytes: ...
    def leave(self) -> None:
        """The client is gone, or has everything. Calling it again does no harm."""
        ...


class LiveAnswer:
    """An answer, whole or streamed, that ends with its client's connection. *format_field* is the
    body's field that asks for a response format."""

    def __init__(self, source: EventSource, encoder: Encoder, format_field: str | None) -> None:
        self.log = source.log
        self.after = 0
        self.is_stream = encoder.is_stream
        self.status = 200
        # Called for each event: bound once, without a call in between.
        self.open = encoder.open
        self.feed = encoder.feed
        self.silence = encoder.silence
        self.is_decided = source.is_decided
        self._source = source
        self._encoder = encoder
        self._format_field = format_field
        self._error_headers: Mapping[str, str] = {}

    @property
    def headers(self) -> Mapping[str, str]:
        return {**self._encoder.headers, **self._source.headers, **self._error_headers}

    def refusal(self) -> Exception | None:
        return with_field(self._source.refusal(), self._format_field)

    def end(self) -> bytes:
        refusal = self.refusal()
        if refusal is not None:  # too late for a status
            return self.feed(failure_of(refusal)) + self._encoder.end()
        try:
            return self._encoder.end()
        except WireError as error:
            cause = self._source.error
            return self.fail(error if cause is None else from_exception(cause))

    def fail(self, error: WireError) -> bytes:
        self.status = error.status
        self._error_headers = error.headers
        return self._encoder.fail(error)

    def leave(self) -> None:
        self._source.cancellation.cancel()
