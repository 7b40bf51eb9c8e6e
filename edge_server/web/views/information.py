"""Views of the model, the server and the tokenizer."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any, Never

import msgspec
from flask import Flask, request

from spillover.edge_server.answers.service import Service
from spillover.edge_server.config.settings import Settings
from spillover.edge_server.wire.anthropic import messages
from spillover.edge_server.wire.capabilities import capabilities, longest_request, modalities
from spillover.edge_server.wire.errors import WireError
from spillover.edge_server.wire.gemini.answer import gemini_model
from spillover.edge_server.wire.llama_cpp.objects import generation_settings
from spillover.edge_server.wire.openai.answer import fingerprint
from spillover.edge_server.wire.openai.chat import ChatBody, chat_request
from spillover.edge_server.wire.request_body import POLICIES, decode
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
    app.add_url_rule("/apply-template", "template", views.apply_template, methods=["POST"])
    app.add_url_rule("/v1/messages/count_tokens", "count", views.count_tokens, methods=["POST"])
    app.add_url_rule("/tokenize", "tokenize", views.tokenize, methods=["POST"])
    app.add_url_rule("/detokenize", "detokenize", views.detokenize, methods=["POST"])


class _Views:
    def __init__(self, service: Service, settings: Settings) -> None:
        self._defaults = settings.answers
        self._aliases = settings.aliases
        self._engine = service.engine
        self._router = service.router
        self._created = int(time.time())

    def models(self) -> dict[str, Any]:
        name = self._engine.name
        models = [gemini_model(self._engine)]
        data = [self._entry()]
        if self._router.has_cloud:
            data += [self._entry(policy) for policy in POLICIES]
        page = {"has_more": False, "first_id": name, "last_id": data[-1]["id"]}
        return {"object": "list", "data": data, "models": models, **page}

    def model(self, name: str) -> dict[str, Any]:
        if name not in (self._engine.name, *self._aliases):
            message = f"there is no model {name[:100]!r} here: it serves {self._engine.name!r}"
            raise WireError(404, message, "model", code="model_not_found")
        return self._entry()

    def _entry(self, policy: str = "") -> dict[str, Any]:
        """The fields of OpenAI's models, of Anthropic's and Gemini's, and what llama.cpp's and
        vLLM's add. *policy*: a name that says who should write."""
        card, name = self._engine.card, policy or self._engine.name
        may_leave = policy != "private" and self._router.sees_images
        return {
            **gemini_model(self._engine),
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "spillover",
            "type": "model",
            "display_name": name,
            "created_at": datetime.fromtimestamp(self._created, UTC).isoformat(),
            "aliases": self._aliases,
            "context_length": longest_request(card),
            "max_model_len": longest_request(card),
            "modalities": modalities(sees_images=may_leave),
            "capabilities": capabilities(card),
            "meta": {
                "n_vocab": card.n_vocab,
                "n_embd": 0 if card.embedding is None else card.embedding.n_values,
                "n_ctx": card.n_ctx,
                "n_ctx_train": card.n_ctx_train,
                "n_params": card.n_params,
                "size": card.size_bytes,
            },
        }

    def health(self) -> dict[str, Any]:
        status = self._engine.health()
        if status.state != "ready":
            why = f": {status.detail}" if status.detail else ""
            raise WireError(503, f"{status.state}{why}")
        return {"status": "ok"}

    def tokenize(self) -> dict[str, Any]:
        body = decode(request.get_data(), TokenizeBody)
        tokens = self._engine.tokenize(
            body.content, add_special=body.add_special, parse_special=body.parse_special
        )
        if not body.with_pieces:
            return {"tokens": tokens}
        pieces = {token: self._piece(token) for token in set(tokens)}
        return {"tokens": [{"id": token, "piece": pieces[token]} for token in tokens]}

    def _piece(self, token: int) -> str | list[int]:
        """A token's text, or its bytes if they are only part of a character."""
        content = self._engine.detokenize((token,))
        try:
            return content.decode()
        except UnicodeDecodeError:
            return list(content)

    def detokenize(self) -> dict[str, Any]:
        body = decode(request.get_data(), DetokenizeBody)
        return {"content": self._engine.detokenize(body.tokens).decode("utf-8", "replace")}

    def apply_template(self) -> dict[str, Any]:
        """The prompt of a chat completion's body, which is not answered."""
        body = decode(request.get_data(), ChatBody)
        return {"prompt": self._engine.apply_template(chat_request(body, self._defaults)).text}

    def count_tokens(self) -> dict[str, int]:
        return messages.count_tokens(request.get_data(), self._engine, self._defaults)

    def slots(self) -> list[dict[str, Any]]:
        slots = self._engine.status().slots
        if request.args.get("fail_on_no_slot") and all(s.state != "idle" for s in slots):
            raise WireError(503, "no slot is free")
        n_ctx = self._engine.card.n_ctx
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
        card, name = self._engine.card, self._engine.name
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
        card = self._engine.card
        return {
            "model_id": self._engine.name,
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
