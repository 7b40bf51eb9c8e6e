"""The Flask application: ordinary views that run under any WSGI server."""

from __future__ import annotations

import logging

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from spillover.edge_server.config.settings import Settings
from spillover.edge_server.web.answering import add_generation
from spillover.edge_server.web.budget_views import add_budget_views
from spillover.edge_server.web.handoff_views import add_handoff_views
from spillover.edge_server.web.information import add_information
from spillover.edge_server.web.security import Gatekeeper
from spillover.edge_server.web.service import Service
from spillover.edge_server.web.stream_views import add_stream_views
from spillover.edge_server.wire.errors import WireError, body_of, from_exception
from spillover.runtime.defects import log_defect

_log = logging.getLogger(__name__)


def create_app(service: Service, settings: Settings) -> Flask:
    """The Flask application on *service*."""
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    gate = Gatekeeper(settings)
    app.before_request(lambda: _enter(gate))
    app.register_error_handler(Exception, _answer_error)
    add_generation(app, service, settings)
    add_information(app, service)
    add_handoff_views(app, service)
    add_budget_views(app, service)
    add_stream_views(app, service, settings)
    return app


def _enter(gate: Gatekeeper) -> None:
    g.owner = gate.check(request)


def _answer_error(error: Exception) -> Response:
    if isinstance(error, HTTPException):
        wire_error = _wire_error(error)
    else:
        wire_error = from_exception(error)
        if wire_error.status == 500:
            log_defect(_log, f"{request.method} {request.path} failed", error)
    response = Response(body_of(wire_error), wire_error.status, content_type="application/json")
    response.headers.update(wire_error.headers)
    return response


def _wire_error(error: HTTPException) -> WireError:
    if error.code == 404:
        return WireError(404, "not_found_error", f"there is no {request.path[:100]!r} here")
    status = error.code or 500
    return WireError(status, "invalid_request_error", error.description or error.name)
