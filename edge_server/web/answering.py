"""Views that generate: a body becomes a running generation and the shape of its answer."""

from __future__ import annotations

import msgspec
from flask import Flask, Response, g, request

from spillover.cloud_fallback.route.routing import Routing
from spillover.cloud_fallback.route.settings import RouteOptions
from spillover.edge_server.config.settings import Settings
from spillover.edge_server.web.handover import Handover, hand_over
from spillover.edge_server.web.service import Service
from spillover.edge_server.web.several import Several
from spillover.edge_server.web.source import Source
from spillover.edge_server.wire import body as wire
from spillover.edge_server.wire.answer import AnswerHead
from spillover.edge_server.wire.completions import CompletionBody, completions_of
from spillover.edge_server.wire.errors import WireError, bad_request
from spillover.edge_server.wire.native import (
    InfillBody,
    NativeBody,
    NativeRequests,
    infill_requests,
    native_requests,
)
from spillover.edge_server.wire.native_answer import NativeStream, NativeWhole, Shape
from spillover.edge_server.wire.response_format import named
from spillover.edge_server.wire.shapes import Encoder, Whole
from spillover.edge_server.wire.streams import ChatStream, CompletionStream, StreamOptions
from spillover.edge_server.wire.whole import WholeAnswer, WholeCompletions
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.request import GenerationRequest


def add_generation(app: Flask, service: Service, settings: Settings) -> None:
    """The routes that answer with generated text."""
    answering = _Answering(service, settings)
    for view, paths in (
        (answering.chat, ("/v1/chat/completions", "/chat/completions")),
        (answering.completions, ("/v1/completions",)),
        (answering.native, ("/completion", "/completions")),
        (answering.infill, ("/infill",)),
    ):
        for path in paths:
            app.add_url_rule(path, f"generate {path}", view, methods=["POST"])


class _Answering:
    def __init__(self, service: Service, settings: Settings) -> None:
        self._service = service
        self._engine = service.engine
        self._settings = settings

    def chat(self) -> Response:
        body = wire.decode(request.get_data(), wire.ChatBody)
        asked = wire.chat_request(body)
        call = _call_of(body)
        head = AnswerHead("chatcmpl", call.id, self._engine.name)
        n, logprobs = asked.n, asked.logprobs is not None
        if body.stream:
            encoder = ChatStream(head, _options(body, call, n, n))
            return self._begin(body, (asked,), call, encoder=encoder)
        whole = WholeAnswer(head, n, is_chat=True, logprobs=logprobs)
        return self._begin(body, (asked,), call, whole=whole)

    def completions(self) -> Response:
        body = wire.decode(request.get_data(), CompletionBody)
        asked = completions_of(body, self._engine)
        call = _call_of(body)
        head = AnswerHead("cmpl", call.id, self._engine.name)
        if body.stream:
            options = _options(body, call, asked.n_choices, asked.n_wanted)
            encoder = CompletionStream(head, options, asked.echoes)
            return self._begin(body, asked.requests, call, encoder=encoder)
        whole = WholeCompletions(head, asked, logprobs=body.logprobs is not None)
        return self._begin(body, asked.requests, call, whole=whole)

    def native(self) -> Response:
        body = wire.decode(request.get_data(), NativeBody)
        return self._begin_native(body, native_requests(body, self._engine))

    def infill(self) -> Response:
        body = wire.decode(request.get_data(), InfillBody)
        if self._engine.card.fim is None:
            message = f"{self._engine.name} cannot fill in the middle: it has no tokens for that"
            raise WireError(501, "not_supported_error", message)
        return self._begin_native(body, infill_requests(body, self._engine))

    def _begin_native(self, body: NativeBody, asked: NativeRequests) -> Response:
        shape = Shape(
            asked,
            self._engine.name,
            self._engine.card.n_ctx,
            stream=bool(body.stream),
            tokens=bool(body.return_tokens),
        )
        if body.stream:
            encoder = NativeStream(shape, progress=bool(body.return_progress))
            return self._begin(body, asked.requests, _local_only(), encoder=encoder)
        whole = NativeWhole(shape, body.response_fields)
        return self._begin(body, asked.requests, _local_only(), whole=whole)

    def _begin(
        self,
        body: wire.CommonBody,
        requests: tuple[GenerationRequest, ...],
        call: RouteOptions,
        *,
        encoder: Encoder | None = None,
        whole: Whole | None = None,
    ) -> Response:
        resume_header = request.headers.get("X-Spillover-Resume")
        if wire.is_resumable(body, resume_header=resume_header) and encoder is not None:
            return self._begin_resumable(body, requests, call, encoder)
        source = self._start(body, requests, call)
        answer = Handover(source, encoder=encoder, whole=whole)
        return hand_over(answer, self._settings.keep_alive_s)

    def _begin_resumable(
        self,
        body: wire.CommonBody,
        requests: tuple[GenerationRequest, ...],
        call: RouteOptions,
        encoder: Encoder,
    ) -> Response:
        streams = self._service.streams
        recording = streams.open(call.owner)
        try:
            source = self._start(body, requests, call)
        except BaseException:
            streams.discard(recording)
            raise
        viewer = streams.watch(recording, 0)
        recording.begin(source, encoder)
        return hand_over(viewer, self._settings.keep_alive_s)

    def _start(
        self,
        body: wire.CommonBody,
        requests: tuple[GenerationRequest, ...],
        call: RouteOptions,
    ) -> Source:
        try:
            if len(requests) == 1:
                return self._service.start(requests[0], call)
            return Several(self._service, requests, _kept_local(call))
        except InvalidRequest as error:
            raise named(error, body) from error


def _call_of(body: wire.CommonBody) -> RouteOptions:
    """The answer's id, who asks for it, and what the request wants of its route."""
    events_header = request.headers.get("X-Spillover-Events")
    return wire.route_options_of(body, owner=g.owner, events_header=events_header)


def _local_only() -> RouteOptions:
    """llama.cpp's own dialect has no words for a handoff."""
    return RouteOptions(owner=g.owner, routing=Routing(only="local_only"))


def _kept_local(call: RouteOptions) -> RouteOptions:
    """Several prompts at once are answered here."""
    if call.routing.only == "cloud_only":
        raise bad_request("cloud_only takes one prompt at a time", "spillover.only")
    return msgspec.structs.replace(call, routing=Routing(only="local_only"))


def _options(body: wire.CommonBody, call: RouteOptions, n: int, n_each: int) -> StreamOptions:
    options = body.stream_options
    return StreamOptions(
        n=n,
        n_each=n_each,
        usage=bool(options and options.include_usage),
        progress=bool(body.return_progress),
        events=call.may_replace,
    )
