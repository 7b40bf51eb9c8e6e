"""Which web pages and desktop apps may use the endpoint: an allow-list of origins (CORS)."""

from __future__ import annotations

import re

from flask import Request, Response

from spillover.edge_server.answers.route_taken import ID_HEADER, ROUTE_HEADER
from spillover.edge_server.errors import ConfigError
from spillover.edge_server.resume.viewer import STREAM_HEADER

_ORIGIN = re.compile(r"null|[a-z][a-z0-9+.-]*://(?:\*|[^/*\s]+)")
_HEADER = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MAX_HEADERS = 64
_PREFLIGHT_S = 600
_SHOWN = ", ".join(
    ("X-Request-Id", "Request-Id", STREAM_HEADER, ID_HEADER, ROUTE_HEADER, "Retry-After")
)
"""Headers that a page may read."""


class Origins:
    """The origins that are allowed: "https://example.org" and "app://obsidian.md" as they are
    written, all of a scheme with "vscode-webview://*". Raises ConfigError for anything else."""

    def __init__(self, allowed: tuple[str, ...]) -> None:
        for origin in allowed:
            if not _ORIGIN.fullmatch(origin) or origin in ("http://*", "https://*"):
                raise ConfigError(
                    f"allowed_origins: {origin!r} is no origin: write scheme://host[:port] without "
                    "a path, or scheme://* for a scheme of an app (not http or https)"
                )
        self._exact = frozenset(origin for origin in allowed if not origin.endswith("*"))
        self._schemes = tuple(origin[:-1] for origin in allowed if origin.endswith("*"))

    def allows(self, origin: str | None) -> bool:
        if origin is None:
            return False
        return origin in self._exact or origin.startswith(self._schemes)

    def headers(self, origin: str | None) -> dict[str, str]:
        """What lets a page of *origin* read a response. Never allows credentials of a browser."""
        if not (self._exact or self._schemes):
            return {}
        if origin is None or not self.allows(origin):
            return {"Vary": "Origin"}
        return {
            "Vary": "Origin",
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": _SHOWN,
        }

    def preflight(self, request: Request) -> Response | None:
        """The response to a browser's question before it sends a request; None if this is none."""
        asked = request.headers.get("Access-Control-Request-Method")
        if request.method != "OPTIONS" or asked is None:
            return None
        if not self.allows(request.headers.get("Origin")):
            return None
        wanted = request.headers.get("Access-Control-Request-Headers", "").split(",")
        names = [name.strip() for name in wanted[:_MAX_HEADERS]]
        response = Response(status=204)
        del response.headers["Content-Type"]
        response.headers["Access-Control-Allow-Methods"] = "GET, POST, DELETE"
        response.headers["Access-Control-Allow-Headers"] = ", ".join(
            name for name in names if _HEADER.fullmatch(name)
        )
        response.headers["Access-Control-Max-Age"] = str(_PREFLIGHT_S)
        if request.headers.get("Access-Control-Request-Private-Network") == "true":
            response.headers["Access-Control-Allow-Private-Network"] = "true"
        return response
