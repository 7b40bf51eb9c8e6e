"""What a Flask view leaves to the event loop: an answer that comes later or bit by bit.

A view returns hand_over(answer). The bridge puts an empty list into the WSGI environment; the
answer that it finds there is driven on the event loop, so that no thread waits for it. Under any
other WSGI server the list is missing, and the server's thread does the same.
"""

from __future__ import annotations

from collections.abc import Iterator

from flask import Response, request

from spillover.edge_server.resume.viewer import Viewer
from spillover.edge_server.web import sse
from spillover.edge_server.web.source import Source
from spillover.edge_server.wire.errors import WireError, body_of, from_exception
from spillover.edge_server.wire.shapes import Encoder, Whole

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
        generation: Source,
        *,
        encoder: Encoder | None = None,
        whole: Whole | None = None,
    ) -> None:
        self.generation = generation
        self.encoder = encoder
        self.whole = whole

    def leave(self) -> None:
        """The client is gone, or has everything."""
        self.generation.cancellation.cancel()

    def result(self) -> tuple[int, bytes, dict[str, str]]:
        """Status, body and headers of a whole answer, once all events are added."""
        assert self.whole is not None
        try:
            return 200, self.whole.body(), JSON_HEADERS
        except WireError as error:
            cause = self.generation.error
            found = from_exception(cause) if cause is not None else error
            return found.status, body_of(found), {**JSON_HEADERS, **found.headers}


def hand_over(answer: Handover | Viewer, keep_alive_s: float) -> Response:
    """The response of a view that leaves *answer* to whoever can drive it."""
    places: list[Handover | Viewer] | None = request.environ.get(ENVIRON_KEY)
    if places is not None:
        places.append(answer)
        return Response()
    if isinstance(answer, Viewer):
        headers = {**STREAM_HEADERS, **answer.headers}
        response = Response(answer.stream(keep_alive_s), headers=headers)
        response.call_on_close(answer.leave)
        return response
    if answer.encoder is not None:
        stream = _stream(answer.generation, answer.encoder, keep_alive_s)
        return Response(stream, headers=STREAM_HEADERS)
    assert answer.whole is not None
    for _, event in answer.generation.log.follow():
        answer.whole.add(event)
    status, body, headers = answer.result()
    return Response(body, status, headers)


def _stream(source: Source, encoder: Encoder, keep_alive_s: float) -> Iterator[bytes]:
    """The body of a stream in a thread of its own. Only a write shows that a client has left,
    so silence is broken by comments."""
    log, after = source.log, 0
    try:
        yield encoder.start() or sse.KEEP_ALIVE
        while True:
            if not log.wait(after, keep_alive_s):
                yield sse.KEEP_ALIVE
                continue
            events, ended = log.read(after)
            after += len(events)
            chunk = b"".join(map(encoder.encode, events))
            if ended:
                chunk += encoder.end()
            if chunk:
                yield chunk
            if ended:
                return
    finally:
        source.cancellation.cancel()
