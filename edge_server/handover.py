"""What a Flask view leaves to the event loop: an answer that comes later or bit by bit.

A view returns hand_over(answer). Under the bridge the answer is taken out of the WSGI environment
and driven on the event loop, so that no thread waits for it; under any other WSGI server the
returned response does the same in the server's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

from flask import Response, request

from spillover.edge_server import sse
from spillover.edge_server.service import Generation
from spillover.edge_server.wire.errors import WireError, body_of, from_exception
from spillover.edge_server.wire.streams import StreamEncoder
from spillover.edge_server.wire.whole import WholeAnswer

ENVIRON_KEY = "spillover.handover"

STREAM_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
JSON_HEADERS = {"Content-Type": "application/json"}


class Handover:
    """An accepted generation, and how its events become an answer: *encoder* for a stream,
    *whole* for one body at the end."""

    def __init__(
        self,
        generation: Generation,
        *,
        encoder: StreamEncoder | None = None,
        whole: WholeAnswer | None = None,
    ) -> None:
        self.generation = generation
        self.encoder = encoder
        self.whole = whole

    def result(self) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers of a whole answer, once all events are added."""
        assert self.whole is not None
        try:
            return 200, self.whole.body(), JSON_HEADERS
        except WireError as error:
            cause = self.generation.error
            found = from_exception(cause) if cause is not None else error
            return found.status, body_of(found), {**JSON_HEADERS, **found.headers}


def hand_over(answer: Handover) -> Response:
    """The response of a view that leaves *answer* to whoever can drive it."""
    request.environ[ENVIRON_KEY] = answer
    if answer.encoder is not None:
        return Response(_stream(answer, answer.encoder), headers=STREAM_HEADERS)
    return Response(_Lazily(lambda: _whole(answer)), headers=JSON_HEADERS)


class _Lazily:
    """An iterable body that is made when it is first asked for."""

    def __init__(self, make: Callable[[], bytes]) -> None:
        self._make = make

    def __iter__(self) -> Iterator[bytes]:
        yield self._make()


def _whole(answer: Handover) -> bytes:
    assert answer.whole is not None
    for _, event in answer.generation.log.follow():
        answer.whole.add(event)
    return answer.result()[1]


def _stream(answer: Handover, encoder: StreamEncoder) -> Iterator[bytes]:
    """The fallback under other WSGI servers: the server's thread follows the log."""
    generation = answer.generation
    try:
        yield encoder.start()
        with closing(generation.log.follow()) as events:
            for _, event in events:
                if chunk := encoder.encode(event):
                    yield chunk
        yield encoder.end() or sse.KEEP_ALIVE
    finally:
        generation.cancellation.cancel()
