"""Views that generate: a body becomes a running generation and the shape of its answer."""

from __future__ import annotations

from flask import Flask, Response, request

from spillover.edge_server.handover import Handover, Source, hand_over
from spillover.edge_server.service import Service
from spillover.edge_server.settings import Settings
from spillover.edge_server.several import Several
from spillover.edge_server.wire import body as wire
from spillover.edge_server.wire.answer import AnswerHead
from spillover.edge_server.wire.completions import CompletionBody, completions_of
from spillover.edge_server.wire.errors import WireError
from spillover.edge_server.wire.native import (
    InfillBody,
    NativeBody,
    NativeRequests,
    infill_requests,
    native_requests,
)
from spillover.edge_server.wire.native_answer import NativeStream, NativeWhole, Shape
from spillover.edge_server.wire.shapes import Encoder, Whole
from spillover.edge_server.wire.streams import ChatStream, CompletionStream, StreamOptions
from spillover.edge_server.wire.whole import WholeAnswer, WholeCompletions
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
        head = AnswerHead("chatcmpl", self._engine.name)
        n, logprobs = asked.n, asked.logprobs is not None
        if body.stream:
            return self._begin((asked,), encoder=ChatStream(head, _options(body, n, n)))
        return self._begin((asked,), whole=WholeAnswer(head, n, is_chat=True, logprobs=logprobs))

    def completions(self) -> Response:
        body = wire.decode(request.get_data(), CompletionBody)
        asked = completions_of(body, self._engine)
        head = AnswerHead("cmpl", self._engine.name)
        if body.stream:
            options = _options(body, asked.n_choices, asked.n_wanted)
            encoder = CompletionStream(head, options, asked.echoes)
            return self._begin(asked.requests, encoder=encoder)
        whole = WholeCompletions(head, asked, logprobs=body.logprobs is not None)
        return self._begin(asked.requests, whole=whole)

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
            return self._begin(asked.requests, encoder=encoder)
        return self._begin(asked.requests, whole=NativeWhole(shape, body.response_fields))

    def _begin(
        self,
        requests: tuple[GenerationRequest, ...],
        *,
        encoder: Encoder | None = None,
        whole: Whole | None = None,
    ) -> Response:
        source: Source
        if len(requests) == 1:
            source = self._service.start(requests[0])
        else:
            source = Several(self._service, requests)
        answer = Handover(source, encoder=encoder, whole=whole)
        return hand_over(answer, self._settings.keep_alive_s)


def _options(body: wire.CommonBody, n: int, n_each: int) -> StreamOptions:
    options = body.stream_options
    return StreamOptions(
        n=n,
        n_each=n_each,
        usage=bool(options and options.include_usage),
        progress=bool(body.return_progress),
    )
