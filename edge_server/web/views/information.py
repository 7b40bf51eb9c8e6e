"""Views of the model, the server and the tokenizer."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any, Never

import msgspec
from flask import Flask, request

from spillover.edge_server.answers.served_models import ServedModel
from spillover.edge_server.answers.service import Service
from spillover.edge_server.config.settings import Settings
from spillover.edge_server.web.views.answers import asked_model
from spillover.edge_server.web.views.model_entries import (
    gemini_entry,
    longest_of,
    size_of,
    status_of,
)
from spillover.edge_server.web.views.query import queried_model
from spillover.edge_server.wire.anthropic import messages
from spillover.edge_server.wire.capabilities import capabilities, modalities
from spillover.edge_server.wire.errors import WireError
from spillover.edge_server.wire.llama_cpp.objects import generation_settings
from spillover.edge_server.wire.openai.answer import fingerprint
from spillover.edge_server.wire.openai.chat import ChatBody, chat_request
from spillover.edge_server.wire.request_body import POLICIES, decode
from spillover.runtime.engine import ModelCard, TextEngine
from spillover.runtime.errors import NotLoaded
from spillover.runtime.request import MAX_STOP_STRINGS, GenerationRequest, TokenId


class TokenizeBody(msgspec.Struct, frozen=True):
    content: str
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


class DetokenizeBody(msgspec.Struct, frozen=True):
    tokens: tuple[TokenId, ...]


def add_information(app: Flask, service: Service, settings: Settings) -> None:
    """The routes that answer at once."""
    views = _Views(service, settings)
    for path, view in (
        ("/v1/models", views.models),
        ("/models", views.models),
        ("/v1/models/<path:name>", views.model),
        ("/health", views.health),
        ("/v1/health", views.health),
        ("/slots", views.slots),
        ("/props", views.props),
        ("/metrics", views.metrics),
        ("/info", views.info),
    ):
        app.add_url_rule(path, f"information {path}", view)
    for what, change in (("load", views.load), ("unload", views.unload)):
        path = f"/v1/models/<path:name>/{what}"
        app.add_url_rule(path, f"model {what}", change, methods=["POST"])
    app.add_url_rule("/apply-template", "template", views.apply_template, methods=["POST"])
    app.add_url_rule("/v1/messages/count_tokens", "count", views.count_tokens, methods=["POST"])
    app.add_url_rule("/tokenize", "tokenize", views.tokenize, methods=["POST"])
    app.add_url_rule("/detokenize", "detokenize", views.detokenize, methods=["POST"])


class _Views:
    def __init__(self, service: Service, settings: Settings) -> None:
        self._service = service
        self._defaults = settings.answers
        self._models = service.models
        self._router = service.router
        self._created = int(time.time())

    def models(self) -> dict[str, Any]:
        served = self._models.all()
        data = [self._entry(model) for model in served]
        if self._router.has_cloud():
            data += [
                self._entry(self._models.default, policy)
                for policy in POLICIES
                if self._models.known(policy) is None
            ]
        page = {"has_more": False, "first_id": data[0]["id"], "last_id": data[-1]["id"]}
        models = [gemini_entry(model) for model in served]
        return {"object": "list", "data": data, "models": models, **page}

    def model(self, name: str) -> dict[str, Any]:
        return self._entry(self._known(name))

    def load(self, name: str) -> dict[str, Any]:
        model = self._known(name)
        if model.hosted is not None and not model.hosted.is_loaded:
            raise NotLoaded(model.name)
        return self._entry(model)

    def unload(self, name: str) -> dict[str, Any]:
        model = self._known(name)
        if model.hosted is None:
            raise WireError(501, f"{model.name} is always loaded here")
        model.hosted.unload()
        return self._entry(model)

    def _known(self, name: str) -> ServedModel:
        model = self._models.known(name)
        if model is None:
            default = self._models.default.name
            message = f"there is no model {name[:100]!r} here: it serves {default!r}"
            raise WireError(404, message, "model", code="model_not_found")
        return model

    def _entry(self, model: ServedModel, policy: str = "") -> dict[str, Any]:
        """The fields of OpenAI's models, of Anthropic's and Gemini's, and what llama.cpp's and
        vLLM's add. *policy*: a name that says who should write."""
        card, name = model.card, policy or model.name
        stays = policy == "private" or not self._router.has_cloud(model.side)
        sees_images = not stays and self._router.sees_images(model.side)
        return {
            **gemini_entry(model),
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "spillover",
            "type": "model",
            "display_name": name,
            "created_at": datetime.fromtimestamp(self._created, UTC).isoformat(),
            "aliases": model.aliases,
            "context_length": longest_of(model),
            "max_model_len": longest_of(model),
            "modalities": modalities(sees_images=sees_images),
            "fallback": "never" if stays else model.side.routing.fallback,
            "capabilities": [] if card is None else capabilities(card),
            "engine": "" if card is None else card.library,
            "status": status_of(model),
            "meta": {"size": size_of(model)} if card is None else _meta(card),
        }

    def health(self) -> dict[str, Any]:
        model = queried_model(self._service)
        status = model.engine.health()
        # A model that is not loaded is loaded by the next request: the server can serve.
        is_absent = model.hosted is not None and status.state in ("unloaded", "loading")
        if status.state != "ready" and not is_absent:
            why = f": {status.detail}" if status.detail else ""
            raise WireError(503, f"{status.state}{why}")
        return {"status": "ok"}

    def tokenize(self) -> dict[str, Any]:
        body = decode(request.get_data(), TokenizeBody)
        engine = self._asked()
        tokens = engine.tokenize(
            body.content, add_special=body.add_special, parse_special=body.parse_special
        )
        if not body.with_pieces:
            return {"tokens": tokens}
        distinct = tuple(set(tokens))
        pieces = dict(zip(distinct, map(_shown, engine.pieces(distinct)), strict=True))
        return {"tokens": [{"id": token, "piece": pieces[token]} for token in tokens]}

    def _asked(self) -> TextEngine:
        """The engine of the model that the request's body names."""
        return asked_model(self._service, {}).at_once

    def detokenize(self) -> dict[str, Any]:
        body = decode(request.get_data(), DetokenizeBody)
        return {"content": self._asked().detokenize(body.tokens).decode("utf-8", "replace")}

    def apply_template(self) -> dict[str, Any]:
        """The prompt of a chat completion's body, which is not answered."""
        body = decode(request.get_data(), ChatBody)
        return {"prompt": self._asked().apply_template(chat_request(body, self._defaults)).text}

    def count_tokens(self) -> dict[str, int]:
        return messages.count_tokens(request.get_data(), self._asked(), self._defaults)

    def slots(self) -> list[dict[str, Any]]:
        model = queried_model(self._service)
        slots = model.engine.status().slots
        if request.args.get("fail_on_no_slot") and all(s.state != "idle" for s in slots):
            raise WireError(503, "no slot is free")
        n_ctx = model.at_once.card.n_ctx
        return [
            {
                "id": slot.id,
                "n_ctx": n_ctx,
                "is_processing": slot.state != "idle",
                "state": slot.state,
                "n_tokens": slot.n_tokens,
            }
            for slot in slots
        ]

    def props(self) -> dict[str, Any]:
        engine = queried_model(self._service).at_once
        card, name = engine.card, engine.name
        defaults = generation_settings(
            GenerationRequest(
                prompt="?",
                sampling=self._defaults.sampling,
                max_tokens=self._defaults.max_tokens,
            ),
            name,
            card.n_ctx,
            stream=False,
        )
        return {
            "model_alias": name,
            "model_path": card.path,
            "chat_template": card.chat_template,
            "bos_token": card.bos_text,
            "eos_token": card.eos_text,
            "n_ctx": card.n_ctx,
            "total_slots": card.n_parallel,
            "default_generation_settings": {"n_ctx": card.n_ctx, "params": defaults},
            "modalities": {"vision": False, "audio": False},
            "build_info": fingerprint(),
        }

    def info(self) -> dict[str, Any]:
        """What Text Generation Inference says of itself."""
        engine = queried_model(self._service).at_once
        card = engine.card
        return {
            "model_id": engine.name,
            "model_sha": None,
            "model_pipeline_tag": "text-generation",
            "model_device_type": card.device.lower(),
            "max_concurrent_requests": card.n_parallel,
            "max_best_of": 1,
            "max_stop_sequences": MAX_STOP_STRINGS,
            "max_input_tokens": card.n_ctx - 1,
            "max_total_tokens": card.n_ctx,
            "version": fingerprint(),
        }

    def metrics(self) -> Never:
        raise WireError(501, "metrics are not supported yet")


def _meta(card: ModelCard) -> dict[str, int]:
    return {
        "n_vocab": card.n_vocab,
        "n_embd": 0 if card.embedding is None else card.embedding.n_values,
        "n_ctx": card.n_ctx,
        "n_ctx_train": card.n_ctx_train,
        "n_params": card.n_params,
        "size": card.size_bytes,
    }


def _shown(piece: bytes) -> str | list[int]:
    """A token's text, or its bytes if they are only part of a character."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)
