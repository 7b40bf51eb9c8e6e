"""The routes by which a client takes its stream up again, or ends it."""

from __future__ import annotations

from typing import Any

from flask import Flask, Response, g, request

from spillover.edge_server.config.settings import Settings
from spillover.edge_server.resume import cursor
from spillover.edge_server.resume.streams import Streams
from spillover.edge_server.web.driver import respond
from spillover.edge_server.wire.dialect import SSE_HEADERS


def add_stream_views(app: Flask, streams: Streams, settings: Settings) -> None:
    """GET and DELETE /v1/streams/ID. There is no list: only the client knows its stream's id."""

    def follow(stream_id: str) -> Response:
        recording = streams.find(stream_id, g.owner)
        after = cursor.asked(
            stream_id, request.headers.get("Last-Event-ID"), request.args.get("after")
        )
        log = recording.log
        if log.closed and after == log.last:
            return _nothing_more()
        if request.method == "HEAD":
            return Response(headers=SSE_HEADERS)
        return respond(streams.watch(recording, after), settings.keep_alive_s)

    def stop(stream_id: str) -> dict[str, Any]:
        recording = streams.find(stream_id, g.owner)
        was_running = not recording.log.closed
        if was_running:
            recording.stop("the answer was cancelled by its client")
        return {"id": stream_id, "object": "stream", "stopped": was_running}

    app.add_url_rule("/v1/streams/<stream_id>", "follow", follow)
    app.add_url_rule("/v1/streams/<stream_id>", "stop", stop, methods=["DELETE"])


def _nothing_more() -> Response:
    """The one answer after which a browser does not connect again."""
    response = Response(status=204)
    del response.headers["Content-Type"]
    return response
