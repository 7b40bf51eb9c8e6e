"""The routes: ordinary Flask views that run under any WSGI server."""

from __future__ import annotations

from typing import Any

import msgspec
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from spillover.edge_server.handover import Handover, hand_over
from spillover.edge_server.security import Gatekeeper
from spillover.edge_server.service import Service
from spillover.edge_server.settings import Settings
from spillover.edge_server.wire import body as wire
from spillover.edge_server.wire.answer import AnswerHead, fingerprint
from spillover.edge_server.wire.errors import WireError, body_of, from_exception
from spillover.edge_server.wire.streams import (
    ChatStream,
    CompletionStream,
    StreamEncoder,
    StreamOptions,
)
from spillover.edge_server.wire.whole import WholeAnswer
from spillover.runtime.request import GenerationRequest

_HINT = "Spillover: a local endpoint for OpenAI clients. POST /v1/chat/completions\n"


class TokenizeBody(msgspec.Struct, frozen=True):
    content: str
    add_special: bool = False
    parse_special: bool = True


class DetokenizeBody(msgspec.Struct, frozen=True):
    tokens: tuple[int, ...]


def create_app(service: Service, settings: Settings) -> Flask:
    """The Flask application on *service*."""
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    gate = Gatekeeper(settings)
    app.before_request(lambda: gate.check(request))
    app.register_error_handler(Exception, _answer_error)
    _add_generation(app, service)
    _add_information(app, service)
    return app


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, content_type="application/json")


def _answer_error(error: Exception) -> Response:
    if isinstance(error, HTTPException):
        kind = "not_found_error" if error.code == 404 else "invalid_request_error"
        wire_error = WireError(error.code or 500, kind, error.description or error.name)
    else:
        wire_error = from_exception(error)
    response = Response(body_of(wire_error), wire_error.status, content_type="application/json")
    response.headers.update(wire_error.headers)
    return response


def _add_generation(app: Flask, service: Service) -> None:
    def chat() -> Response:
        body = wire.decode(request.get_data(), wire.ChatBody)
        return _generate(service, wire.chat_request(body), body, is_chat=True)

    def completions() -> Response:
        body = wire.decode(request.get_data(), wire.CompletionBody)
        return _generate(service, wire.completion_request(body), body, is_chat=False)

    for prefix in ("/v1", ""):
        app.add_url_rule(f"{prefix}/chat/completions", f"chat{prefix}", chat, methods=["POST"])
        app.add_url_rule(
            f"{prefix}/completions", f"completions{prefix}", completions, methods=["POST"]
        )


def _generate(
    service: Service, generation_request: GenerationRequest, body: wire.CommonBody, *, is_chat: bool
) -> Response:
    head = AnswerHead("chatcmpl" if is_chat else "cmpl", service.engine.name)
    generation = service.start(generation_request)
    if not body.stream:
        whole = WholeAnswer(
            head,
            generation_request.n,
            is_chat=is_chat,
            logprobs=generation_request.logprobs is not None,
        )
        return hand_over(Handover(generation, whole=whole))
    stream_options = body.stream_options
    options = StreamOptions(
        n=generation_request.n,
        usage=bool(stream_options and stream_options.include_usage),
        progress=bool(body.return_progress),
    )
    kind: type[StreamEncoder] = ChatStream if is_chat else CompletionStream
    return hand_over(Handover(generation, encoder=kind(head, options)))


def _add_information(app: Flask, service: Service) -> None:
    engine = service.engine

    def models() -> Response:
        card = engine.card
        entry = {
            "id": engine.name,
            "object": "model",
            "created": 0,
            "owned_by": "spillover",
            "meta": {
                "n_vocab": card.n_vocab,
                "n_ctx": card.n_ctx,
                "n_ctx_train": card.n_ctx_train,
                "n_params": card.n_params,
                "size": card.size_bytes,
            },
        }
        return _json({"object": "list", "data": [entry]})

    def health() -> Response:
        state = engine.status().state
        if state != "ready":
            raise WireError(503, "unavailable_error", f"the model is {state}")
        return _json({"status": "ok"})

    def tokenize() -> Response:
        body = wire.decode(request.get_data(), TokenizeBody)
        tokens = engine.tokenize(
            body.content, add_special=body.add_special, parse_special=body.parse_special
        )
        return _json({"tokens": tokens})

    def detokenize() -> Response:
        body = wire.decode(request.get_data(), DetokenizeBody)
        return _json({"content": engine.detokenize(body.tokens).decode("utf-8", "replace")})

    def slots() -> Response:
        return _json(
            [
                {
                    "id": slot.id,
                    "is_processing": slot.state != "idle",
                    "state": slot.state,
                    "n_tokens": slot.n_tokens,
                }
                for slot in engine.status().slots
            ]
        )

    def props() -> Response:
        card = engine.card
        return _json(
            {
                "model_alias": engine.name,
                "n_ctx": card.n_ctx,
                "total_slots": card.n_parallel,
                "build_info": fingerprint(),
            }
        )

    def metrics() -> Response:
        raise WireError(501, "not_supported_error", "metrics are not supported yet")

    def hint() -> Response:
        return Response(_HINT, content_type="text/plain; charset=utf-8")

    for path, view in (
        ("/v1/models", models),
        ("/models", models),
        ("/health", health),
        ("/v1/health", health),
        ("/slots", slots),
        ("/props", props),
        ("/metrics", metrics),
        ("/", hint),
    ):
        app.add_url_rule(path, f"{view.__name__} {path}", view)
    for path, view in (("/tokenize", tokenize), ("/detokenize", detokenize)):
        app.add_url_rule(path, view.__name__, view, methods=["POST"])
