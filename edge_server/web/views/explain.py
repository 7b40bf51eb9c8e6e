"""What would happen to a request of any dialect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flask import Flask, request
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, Rule

from spillover.edge_server.answers.service import Service
from spillover.edge_server.config.settings import Settings
from spillover.edge_server.web.views.answers import asked_for, asked_model, kept_local
from spillover.edge_server.wire.dialect import Endpoint, ModelOrder
from spillover.edge_server.wire.errors import WireError
from spillover.edge_server.wire.explanation import explanation
from spillover.edge_server.wire.openai.responses.store import ResponseStore
from spillover.runtime.embedding_request import EmbeddingRequest

EXPLAIN_PATH = "/v1/route/explain"
_USUAL_PATH = "/v1/chat/completions"


def add_explain_view(
    app: Flask,
    service: Service,
    settings: Settings,
    endpoints: Sequence[Endpoint],
    responses: ResponseStore,
) -> None:
    """POST /v1/route/explain?path=PATH: the body is one for PATH."""
    by_path = {path: endpoint for endpoint in endpoints for path in endpoint.paths}
    paths = Map([Rule(path, endpoint=path) for path in by_path]).bind("")

    def explain() -> dict[str, Any]:
        path = request.args.get("path", _USUAL_PATH)
        try:
            rule, variables = paths.match(path)
        except HTTPException as error:
            message = f"path {path[:100]!r} is none that answers: give one such as {_USUAL_PATH}"
            raise WireError(400, message, "path") from error
        model = asked_model(service, dict(variables))
        plan = by_path[rule].plan(asked_for(model, settings, responses, dict(variables)))
        if isinstance(plan, bytes | ModelOrder):
            raise WireError(400, "this request is answered without any model", "path")
        asked = plan.requests[0]
        if isinstance(asked, EmbeddingRequest):
            raise WireError(400, "embeddings and rankings are always made on this device", "path")
        options = plan.options if len(plan.requests) == 1 else kept_local(plan.options)
        return explanation(service.router.explain(asked, options, model.side))

    app.add_url_rule(EXPLAIN_PATH, "explain", explain, methods=["POST"])
