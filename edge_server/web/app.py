"""The Flask application: ordinary views that run under any WSGI server."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from flask import Flask, Response, current_app, g, request
from flask.json.provider import DefaultJSONProvider
from werkzeug.exceptions import HTTPException

from spillover.edge_server.answers.served_models import ServedModels
from spillover.edge_server.answers.service import Service
from spillover.edge_server.config.settings import Settings
from spillover.edge_server.resume.streams import Streams
from spillover.edge_server.web.content_encoding import decompress_body
from spillover.edge_server.web.driver import LOADS_KEY
from spillover.edge_server.web.security import Gatekeeper
from spillover.edge_server.web.views.answers import add_generation_views, add_stream_views
from spillover.edge_server.web.views.explain import add_explain_view
from spillover.edge_server.web.views.gemini import add_gemini_views
from spillover.edge_server.web.views.handoffs import add_handoff_views
from spillover.edge_server.web.views.information import add_information
from spillover.edge_server.web.views.ollama import add_ollama_views
from spillover.edge_server.web.views.page import add_page
from spillover.edge_server.web.views.responses import add_response_views
from spillover.edge_server.wire.dialect import Endpoint
from spillover.edge_server.wire.endpoints import ENDPOINTS, error_body_of
from spillover.edge_server.wire.errors import WireError, from_exception
from spillover.edge_server.wire.openai.responses.store import ResponseStore
from spillover.runtime.errors import NotLoaded, log_defect

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from flask.typing import ResponseReturnValue

_log = logging.getLogger(__name__)


def create_app(
    service: Service, settings: Settings, endpoints: Sequence[Endpoint] = ENDPOINTS
) -> Flask:
    """The Flask application on *service*."""
    streams = Streams(settings.resume)
    service.at_close(streams.close)
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.json = _Json(app)
    gate = Gatekeeper(settings)
    app.before_request(lambda: _enter(gate, settings.max_body_bytes))
    app.after_request(lambda response: _show_to_origin(gate, response))
    app.wsgi_app = _merge_slashes(app.wsgi_app)  # type: ignore[assignment, method-assign]  # as Flask advises
    app.register_error_handler(
        NotLoaded, lambda error: _load_first(error, service.models, endpoints)
    )
    app.register_error_handler(Exception, lambda error: _answer_error(error, endpoints))
    responses = ResponseStore(settings.max_responses)
    add_generation_views(app, service, streams, settings, endpoints, responses)
    add_response_views(app, service, streams, settings, responses)
    add_information(app, service, settings)
    add_ollama_views(app, service)
    add_gemini_views(app, service, settings, responses)
    add_handoff_views(app, service)
    add_explain_view(app, service, settings, endpoints, responses)
    add_stream_views(app, streams, settings)
    add_page(app, service)
    return app


class _Json(DefaultJSONProvider):
    """Encodes what views return."""

    def response(self, *args: Any, **kwargs: Any) -> Response:
        return Response(msgspec.json.encode(args[0]), content_type="application/json")


def _merge_slashes(application: WSGIApplication) -> WSGIApplication:
    """*application*, for which "/v1//models" is "/v1/models": many clients put a base URL with a
    slash at its end before a path with one at its beginning."""

    def merged(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["PATH_INFO"] = re.sub("/{2,}", "/", environ["PATH_INFO"])
        return application(environ, start_response)

    return merged


def _enter(gate: Gatekeeper, max_body_bytes: int) -> Response | None:
    if preflight := gate.origins.preflight(request):
        return preflight
    g.owner = gate.check(request)
    decompress_body(request, max_body_bytes)
    return None


def _show_to_origin(gate: Gatekeeper, response: Response) -> Response:
    response.headers.update(gate.origins.headers(request.headers.get("Origin")))
    return response


def _load_first(
    error: NotLoaded, models: ServedModels, endpoints: Sequence[Endpoint]
) -> ResponseReturnValue:
    """Serve the request once its model is loaded. Only looking at a model does not load it."""
    model = models.known(error.model)
    if model is None or model.hosted is None or request.method in ("GET", "HEAD"):
        return _answer_error(error, endpoints)
    loads: list[str] | None = request.environ.get(LOADS_KEY)
    if loads is not None:
        loads.append(error.model)
        return Response()
    try:
        with model.hosted.loaded():
            return current_app.dispatch_request()
    except Exception as failure:
        return _answer_error(failure, endpoints)


def _answer_error(error: Exception, endpoints: Sequence[Endpoint]) -> Response:
    """*error* in the shape of the dialect that the path belongs to."""
    if isinstance(error, HTTPException):
        wire_error = _wire_error(error)
    else:
        wire_error = from_exception(error)
        if wire_error.status == 500:
            log_defect(_log, f"{request.method} {request.path} failed", error)
    body = error_body_of(request.path, endpoints)(wire_error)
    response = Response(body, wire_error.status, content_type="application/json")
    response.headers.update(wire_error.headers)
    return response


def _wire_error(error: HTTPException) -> WireError:
    if error.code == 404:
        return WireError(404, f"there is no {request.path[:100]!r} here", code="unknown_url")
    status = error.code or 500
    return WireError(status, error.description or error.name)
