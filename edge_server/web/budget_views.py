"""The route that tells what the cloud has cost."""

from __future__ import annotations

import msgspec
from flask import Flask, Response

from spillover.edge_server.web.service import Service
from spillover.edge_server.wire import spending


def add_budget_views(app: Flask, service: Service) -> None:
    """GET /v1/budget."""

    def budget() -> Response:
        body = spending.listed(service.router.spending())
        return Response(msgspec.json.encode(body), content_type="application/json")

    app.add_url_rule("/v1/budget", "budget", budget)
