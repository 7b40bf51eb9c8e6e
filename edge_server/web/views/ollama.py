"""The routes of Ollama that describe the model."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

import msgspec
from flask import Flask, request

from spillover.edge_server.answers.service import Service
from spillover.edge_server.config.settings import Settings
from spillover.edge_server.wire.capabilities import longest_request, ollama_capabilities
from spillover.edge_server.wire.errors import WireError
from spillover.edge_server.wire.request_body import decode
from spillover.runtime.engine import ModelCard

API_VERSION = "0.12.0"
"""Of Ollama's API: what these routes do. Clients refuse versions that are too old for them."""
_UNITS = ((10**9, "B"), (10**6, "M"), (10**3, "K"))


class ShowBody(msgspec.Struct, frozen=True):
    model: str | None = None
    name: str | None = None


def add_ollama_views(app: Flask, service: Service, settings: Settings) -> None:
    """GET /api/tags, /api/version, /api/ps; POST /api/show; what changes models is refused."""
    views = _Views(service, settings)
    app.add_url_rule("/api/version", "ollama version", lambda: {"version": API_VERSION})
    app.add_url_rule("/api/tags", "ollama tags", views.tags)
    app.add_url_rule("/api/ps", "ollama ps", views.running)
    app.add_url_rule("/api/show", "ollama show", views.show, methods=["POST"])
    app.add_url_rule("/api/pull", "ollama pull", views.pull, methods=["POST"])
    for path in ("/api/push", "/api/create", "/api/copy"):
        app.add_url_rule(path, f"ollama {path}", views.refuse, methods=["POST"])
    app.add_url_rule("/api/delete", "ollama delete", views.refuse, methods=["DELETE"])


class _Views:
    def __init__(self, service: Service, settings: Settings) -> None:
        self._engine = service.engine
        self._router = service.router
        self._names = frozenset((service.engine.name, *settings.aliases))
        self._started = datetime.now(UTC).isoformat()

    def tags(self) -> dict[str, Any]:
        return {"models": [{**self._entry(), "modified_at": self._started}]}

    def running(self) -> dict[str, Any]:
        card = self._engine.card
        forever = "9999-12-31T23:59:59Z"
        n_ctx = longest_request(card)
        more = {"expires_at": forever, "size_vram": 0, "context_length": n_ctx}
        return {"models": [{**self._entry(), **more}]}

    def _entry(self) -> dict[str, Any]:
        card, name = self._engine.card, self._engine.name
        identity = f"{name}:{card.architecture}:{card.n_params}:{card.size_bytes}"
        return {
            "name": name,
            "model": name,
            "size": card.size_bytes,
            "digest": hashlib.sha256(identity.encode()).hexdigest(),
            "details": self._details(),
        }

    def _details(self) -> dict[str, Any]:
        card = self._engine.card
        return {
            "parent_model": "",
            "format": "gguf" if card.path.endswith(".gguf") else "onnx",
            "family": card.architecture,
            "families": [card.architecture],
            "parameter_size": _size(card.n_params),
            "quantization_level": card.description.rpartition(" ")[2],
        }

    def show(self) -> dict[str, Any]:
        body = decode(request.get_data(), ShowBody)
        self._find(body.model or body.name or "")
        card = self._engine.card
        kind = card.architecture
        return {
            "modelfile": "",
            "parameters": "",
            "template": card.chat_template,
            "details": self._details(),
            "model_info": {
                "general.architecture": kind,
                "general.parameter_count": card.n_params,
                f"{kind}.context_length": longest_request(card),
                f"{kind}.vocab_size": card.n_vocab,
                **_vector_size(card),
            },
            "capabilities": ollama_capabilities(card, sees_images=self._router.sees_images),
            "modified_at": self._started,
        }

    def _find(self, name: str) -> None:
        if name.removesuffix(":latest") not in self._names:
            raise WireError(404, f"model {name[:100]!r} not found")

    def pull(self) -> dict[str, str]:
        """Clients pull a model before they use it: the one that is served is there."""
        body = decode(request.get_data(), ShowBody)
        if (body.model or body.name or "").removesuffix(":latest") in self._names:
            return {"status": "success"}
        return self.refuse()

    def refuse(self) -> dict[str, str]:
        served = self._engine.name
        raise WireError(501, f"this server answers with {served!r} and changes no models")


def _vector_size(card: ModelCard) -> dict[str, int]:
    if card.embedding is None or card.embedding.pooling == "rank":
        return {}
    return {f"{card.architecture}.embedding_length": card.embedding.n_values}


def _size(n_params: int) -> str:
    """ "135M", as Ollama writes it."""
    for unit, letter in _UNITS:
        if n_params >= unit:
            return f"{n_params / unit:.3g}{letter}"
    return str(n_params)
