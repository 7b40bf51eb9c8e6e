"""The chat page, and what it shows of the device."""

from __future__ import annotations

import gzip
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec
from flask import Flask, Response, g, request

from spillover.cloud_fallback.policy.sensors import read_device
from spillover.edge_server.answers.service import Service
from spillover.edge_server.web.views.query import queried_model
from spillover.edge_server.wire.errors import WireError

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-cache",
    "Vary": "Accept, Accept-Encoding",
}
_HINT = (
    "Spillover: a local endpoint for OpenAI clients. POST /v1/chat/completions, or open this "
    "address in a browser.\n"
)


def add_page(app: Flask, service: Service) -> None:
    """`GET /` for browsers, the files of the page, and `GET /v1/device`."""

    def page() -> Response:
        if "text/html" not in request.accept_mimetypes.values():
            return Response(_HINT, content_type="text/plain; charset=utf-8")
        return _file("index.html")

    def device() -> dict[str, Any]:
        return _device(service, g.owner)

    app.add_url_rule("/", "page", page)
    app.add_url_rule("/page/<path:name>", "page file", _file)
    app.add_url_rule("/v1/device", "device", device)


def _file(name: str) -> Response:
    content = _contents().get(name)
    if content is None:
        raise WireError(404, f"the page has no file {name[:100]!r}", code="unknown_url")
    response = Response(headers=_HEADERS)
    response.content_type = _TYPES[name[name.rindex(".") :]]
    if request.accept_encodings.quality("gzip"):
        response.headers["Content-Encoding"] = "gzip"
        content = _compressed(name)
    response.set_data(content)
    response.add_etag()
    response.make_conditional(request)
    return response


@cache
def _contents() -> dict[str, bytes]:
    """The page's files by their paths in its folder."""
    folder = files("spillover.edge_server").joinpath("page")
    found = [(file.name, file) for file in folder.iterdir()]
    for name, part in list(found):
        if part.is_dir():
            found += [(f"{name}/{file.name}", file) for file in part.iterdir()]
    return {
        name: file.read_bytes()
        for name, file in found
        if file.is_file() and name[name.rfind(".") :] in _TYPES
    }


@cache
def _compressed(name: str) -> bytes:
    return gzip.compress(_contents()[name], mtime=0)


def _device(service: Service, owner: str) -> dict[str, Any]:
    """The device's sensors now, what the engine of a model does, and how sure that is of the
    answers of *owner*. None: there is no such sensor, or the model was never loaded."""
    model = queried_model(service)
    card, status = model.card, model.engine.status()
    reading: dict[str, Any] = msgspec.to_builtins(read_device())
    return {
        "object": "device",
        **reading,
        "model": model.name,
        "description": card and card.description,
        "device": card and card.device,
        "n_threads": card and card.n_threads,
        "n_ctx": card and card.n_ctx,
        "n_kv": card and card.n_kv,
        "n_kv_used": status.n_kv_used,
        "n_running": sum(slot.state != "idle" for slot in status.slots),
        "n_queued": status.n_queued,
        "n_background": status.n_background,
        "prefixes": msgspec.to_builtins(status.prefixes),
        "power_saving": status.power_saving or None,
        "state": status.state,
        "decode_floor": service.router.decode_floor(model.side),
        "doubts": [
            {"answer_id": answer_id, **msgspec.to_builtins(reading)}
            for answer_id, reading in service.router.doubts(model.side).items()
            if service.running(answer_id, owner) is not None
        ],
    }
