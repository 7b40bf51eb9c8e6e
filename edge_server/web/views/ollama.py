"""The routes of Ollama that describe the model."""

from __future__ import annotations

import contextlib
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from flask import Flask, request

from spillover.edge_server.answers.served_models import ServedModel
from spillover.edge_server.answers.service import Service
from spillover.edge_server.web.views.model_entries import longest_of, size_of
from spillover.edge_server.wire.capabilities import ollama_capabilities
from spillover.edge_server.wire.errors import WireError
from spillover.edge_server.wire.request_body import decode
from spillover.models.errors import ModelFileError
from spillover.models.gguf_header import read_header
from spillover.runtime.engine import ModelCard

API_VERSION = "0.12.0"
"""Of Ollama's API: what these routes do. Clients refuse versions that are too old for them."""
_UNITS = ((10**9, "B"), (10**6, "M"), (10**3, "K"))


class ShowBody(msgspec.Struct, frozen=True):
    model: str | None = None
    name: str | None = None


def add_ollama_views(app: Flask, service: Service) -> None:
    """GET /api/tags, /api/version, /api/ps; POST /api/show; what changes models is refused."""
    views = _Views(service)
    app.add_url_rule("/api/version", "ollama version", lambda: {"version": API_VERSION})
    app.add_url_rule("/api/tags", "ollama tags", views.tags)
    app.add_url_rule("/api/ps", "ollama ps", views.running)
    app.add_url_rule("/api/show", "ollama show", views.show, methods=["POST"])
    app.add_url_rule("/api/pull", "ollama pull", views.pull, methods=["POST"])
    for path in ("/api/push", "/api/create", "/api/copy"):
        app.add_url_rule(path, f"ollama {path}", views.refuse, methods=["POST"])
    app.add_url_rule("/api/delete", "ollama delete", views.refuse, methods=["DELETE"])


class _Views:
    def __init__(self, service: Service) -> None:
        self._models = service.models
        self._router = service.router
        self._started = datetime.now(UTC).isoformat()

    def tags(self) -> dict[str, Any]:
        entries = [_entry(model) for model in self._models.all()]
        return {"models": [{**entry, "modified_at": self._started} for entry in entries]}

    def running(self) -> dict[str, Any]:
        """The models that are loaded."""
        loaded = [m for m in self._models.all() if m.hosted is None or m.hosted.holds_memory]
        return {"models": [{**_entry(model), **_residence(model)} for model in loaded]}

    def show(self) -> dict[str, Any]:
        body = decode(request.get_data(), ShowBody)
        model = self._find(body.model or body.name or "")
        card = model.card
        details = _details(model)
        kind = details["family"]
        facts = {f"{kind}.context_length": longest_of(model)}
        if card is not None:
            facts |= {
                "general.parameter_count": card.n_params,
                f"{kind}.vocab_size": card.n_vocab,
                **_vector_size(card),
            }
        sees = self._router.sees_images(model.side)
        return {
            "modelfile": "",
            "parameters": "",
            "template": "" if card is None else card.chat_template,
            "details": details,
            "model_info": {"general.architecture": kind, **facts},
            "capabilities": ollama_capabilities(card, sees_images=sees),
            "modified_at": self._started,
        }

    def _find(self, name: str) -> ServedModel:
        model = self._models.known(name)
        if model is None:
            raise WireError(404, f"model {name[:100]!r} not found")
        return model

    def pull(self) -> dict[str, str]:
        """Clients pull a model before they use it: those that are served are there."""
        body = decode(request.get_data(), ShowBody)
        if self._models.known(body.model or body.name or "") is not None:
            return {"status": "success"}
        return self.refuse()

    def refuse(self) -> dict[str, str]:
        served = self._models.default.name
        raise WireError(501, f"this server answers with {served!r} and changes no models")


def _entry(model: ServedModel) -> dict[str, Any]:
    card, name = model.card, model.name
    identity = f"{name}:{card.architecture}:{card.n_params}:{card.size_bytes}" if card else name
    if card is None and model.entry is not None and model.entry.sha256:
        identity = model.entry.sha256
    return {
        "name": name,
        "model": name,
        "size": size_of(model),
        "digest": hashlib.sha256(identity.encode()).hexdigest(),
        "details": _details(model),
    }


def _residence(model: ServedModel) -> dict[str, Any]:
    """What /api/ps says of a loaded model."""
    seconds = None if model.hosted is None else model.hosted.state().expires_in_s
    forever = "9999-12-31T23:59:59Z"
    at = None if seconds is None else datetime.now(UTC) + timedelta(seconds=seconds)
    return {
        "expires_at": forever if at is None else at.isoformat(),
        "size_vram": 0,
        "context_length": longest_of(model),
    }


def _details(model: ServedModel) -> dict[str, Any]:
    card = model.card
    path = card.path if card else "" if model.entry is None else str(model.entry.path)
    kind = _architecture(model)
    return {
        "parent_model": "",
        "format": "gguf" if path.endswith(".gguf") else "onnx",
        "family": kind,
        "families": [kind],
        "parameter_size": "" if card is None else _size(card.n_params),
        "quantization_level": "" if card is None else card.description.rpartition(" ")[2],
    }


def _architecture(model: ServedModel) -> str:
    if model.card is not None:
        return model.card.architecture
    if model.entry is not None and model.entry.path.suffix == ".gguf":
        with contextlib.suppress(ModelFileError):
            return read_header(model.entry.path).architecture
    return "unknown"


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
