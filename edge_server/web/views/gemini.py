"""The routes of Gemini that describe the model and count tokens."""

from __future__ import annotations

from typing import Any

from flask import Flask

from spillover.edge_server.answers.service import Service
from spillover.edge_server.config.settings import Settings
from spillover.edge_server.web.views.answers import asked_for, asked_model
from spillover.edge_server.web.views.model_entries import gemini_entry
from spillover.edge_server.wire.errors import WireError
from spillover.edge_server.wire.gemini.bodies import count_tokens
from spillover.edge_server.wire.openai.responses.store import ResponseStore


def add_gemini_views(
    app: Flask, service: Service, settings: Settings, responses: ResponseStore
) -> None:
    """GET /v1beta/models and /v1beta/models/NAME; POST …:countTokens. /v1/models has the model in
    Gemini's shape, too."""

    def models() -> dict[str, Any]:
        return {"models": [gemini_entry(model) for model in service.models.all()]}

    def model(name: str) -> dict[str, Any]:
        found = service.models.known(name)
        if found is None:
            raise WireError(404, f"there is no model {name[:100]!r} here", "name")
        return gemini_entry(found)

    def count(**path: str) -> dict[str, int]:
        return count_tokens(asked_for(asked_model(service, path), settings, responses, path))

    app.add_url_rule("/v1beta/models", "gemini models", models)
    app.add_url_rule("/v1beta/models/<path:name>", "gemini model", model)
    for version in ("v1beta", "v1"):
        path = f"/{version}/models/<path:name>:countTokens"
        app.add_url_rule(path, f"gemini count {version}", count, methods=["POST"])
