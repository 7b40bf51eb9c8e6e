"""The routes of OpenAI's Responses that concern one that exists."""

from __future__ import annotations

from typing import Any

import msgspec
from flask import Flask, Response, g, request

from spillover.edge_server.answers.service import Service
from spillover.edge_server.config.settings import Settings
from spillover.edge_server.resume.recording import Recording
from spillover.edge_server.resume.streams import Streams
from spillover.edge_server.web.driver import respond
from spillover.edge_server.web.views.answers import asked_for, asked_model
from spillover.edge_server.web.views.query import number_in_query
from spillover.edge_server.wire.errors import WireError, bad_request
from spillover.edge_server.wire.openai.responses.body import count_tokens
from spillover.edge_server.wire.openai.responses.store import ResponseStore, StoredResponse

_MAX_LISTED = 100
_MOST_EVENTS = 10**9


def add_response_views(
    app: Flask, service: Service, streams: Streams, settings: Settings, store: ResponseStore
) -> None:
    """GET and DELETE /v1/responses/ID, its input_items, its cancel; POST …/input_tokens."""

    def retrieve(response_id: str) -> Response:
        response = store.get(response_id, g.owner)
        if request.args.get("stream", "false").lower() != "true":
            return _json(response.body)
        if not response.runs:
            raise bad_request("only a response with background: true can be streamed", "stream")
        after = number_in_query("starting_after", -1, least=0, most=_MOST_EVENTS) + 1
        viewer = streams.watch(_recording(streams, response), after)
        return respond(viewer, settings.keep_alive_s)

    def cancel(response_id: str) -> Response:
        response = store.get(response_id, g.owner)
        if not response.runs:
            raise bad_request("only a response with background: true can be cancelled", "id")
        if not _stop(streams, response):
            return _json(response.body)
        body = msgspec.json.decode(response.body)
        return _json(msgspec.json.encode(body | {"status": "cancelled"}))

    def delete(response_id: str) -> dict[str, Any]:
        _stop(streams, store.delete(response_id, g.owner))
        return {"id": response_id, "object": "response", "deleted": True}

    def input_items(response_id: str) -> dict[str, Any]:
        items = list(store.get(response_id, g.owner).asked)
        if request.args.get("order", "desc") == "desc":
            items.reverse()
        places = {item.id: place for place, item in enumerate(items)}
        begin = places.get(request.args.get("after"), -1) + 1
        limit = number_in_query("limit", 20, least=1, most=_MAX_LISTED)
        shown = items[begin : begin + limit]
        return {
            "object": "list",
            "data": [{**msgspec.to_builtins(item), "type": item.kind} for item in shown],
            "first_id": shown[0].id if shown else None,
            "last_id": shown[-1].id if shown else None,
            "has_more": begin + limit < len(items),
        }

    def input_tokens() -> dict[str, Any]:
        return count_tokens(asked_for(asked_model(service, {}), settings, store, {}))

    one = "/v1/responses/<response_id>"
    app.add_url_rule(one, "response", retrieve)
    app.add_url_rule(one, "delete_response", delete, methods=["DELETE"])
    app.add_url_rule(f"{one}/cancel", "cancel_response", cancel, methods=["POST"])
    app.add_url_rule(f"{one}/input_items", "input_items", input_items)
    app.add_url_rule("/v1/responses/input_tokens", "input_tokens", input_tokens, methods=["POST"])


def _recording(streams: Streams, response: StoredResponse) -> Recording:
    return streams.find(response.id.removeprefix("resp_"), response.owner)


def _stop(streams: Streams, response: StoredResponse) -> bool:
    """Whether it was running."""
    try:
        recording = _recording(streams, response)
    except WireError:  # it ended so long ago that its stream is forgotten
        return False
    if recording.log.closed:
        return False
    recording.stop("the response was cancelled")
    return True


def _json(body: bytes) -> Response:
    return Response(body, content_type="application/json")
