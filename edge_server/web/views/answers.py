"""Views that respond with an answer: a new one of an endpoint, or a stream taken up again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, get_args

from flask import Flask, Response, g, request
from msgspec.structs import replace

from spillover.cloud_fallback.route.allowed import Routing
from spillover.cloud_fallback.route.settings import RouteOptions
from spillover.edge_server.answers.answer import LiveAnswer
from spillover.edge_server.answers.event_log import EventSource
from spillover.edge_server.answers.served_models import ServedModel
from spillover.edge_server.answers.service import Service
from spillover.edge_server.answers.several import Several
from spillover.edge_server.config.settings import Settings
from spillover.edge_server.resume import cursor
from spillover.edge_server.resume.streams import Streams
from spillover.edge_server.resume.viewer import Viewer
from spillover.edge_server.web.driver import respond
from spillover.edge_server.wire.dialect import (
    SSE_HEADERS,
    AnswerPlan,
    AnswerRequest,
    Endpoint,
    ModelOrder,
    StreamEncoder,
)
from spillover.edge_server.wire.errors import bad_request
from spillover.edge_server.wire.openai.responses.store import ResponseStore
from spillover.edge_server.wire.request_body import model_named
from spillover.runtime.errors import NotLoaded
from spillover.runtime.request import GenerationRequest, Priority

PRIORITY_HEADER = "X-Spillover-Priority"


def add_generation_views(
    app: Flask,
    service: Service,
    streams: Streams,
    settings: Settings,
    endpoints: Sequence[Endpoint],
    responses: ResponseStore,
) -> None:
    """One view for each row of *endpoints*."""

    def view_of(endpoint: Endpoint) -> Callable[..., Response]:
        def generate(**path: str) -> Response:
            model = asked_model(service, path)
            asked = asked_for(model, settings, responses, path)
            planned = endpoint.plan(asked)
            if isinstance(planned, ModelOrder):
                planned = carry_out(planned, model, is_named=asked.names_model)
            if isinstance(planned, bytes):
                return Response(planned, content_type="application/json")
            planned = _of_priority(planned)
            if asked.names_model:
                planned = _keeping_alive(planned)
            if isinstance(planned.encoder, StreamEncoder):
                planned.encoder.keep_alive = settings.keep_alive
            answer = _begin(service, streams, planned, model)
            if answer is None:
                assert isinstance(planned.encoder, StreamEncoder)
                return Response(planned.encoder.snapshot(), content_type="application/json")
            return respond(answer, settings.keep_alive_s)

        return generate

    for endpoint in endpoints:
        for path in endpoint.paths:
            app.add_url_rule(path, f"generate {path}", view_of(endpoint), methods=["POST"])


def asked_model(service: Service, path: dict[str, str]) -> ServedModel:
    """The model that the current request names in its path or its body, or the default one."""
    return service.models.asked(_asked_name(path))


def _asked_name(path: dict[str, str]) -> str:
    return path.get("name") or model_named(request.get_data())


def asked_for(
    model: ServedModel, settings: Settings, responses: ResponseStore, path: dict[str, str]
) -> AnswerRequest:
    """What the current request asks of *model*; *path* has the variables of its path."""
    wants_events = request.headers.get("X-Spillover-Events") == "1"
    return AnswerRequest(
        content=request.get_data(),
        engine=model.at_once,
        names_model=model.is_called(_asked_name(path).removesuffix(":latest")),
        defaults=settings.answers,
        options=RouteOptions(owner=g.owner, can_answer=False, may_replace=wants_events),
        path=path,
        query=request.args,
        resume=request.headers.get("X-Spillover-Resume") == "1",
        responses=responses,
    )


def _of_priority(plan: AnswerPlan) -> AnswerPlan:
    """*plan* with the priority that a header of the current request asks for."""
    priority = request.headers.get(PRIORITY_HEADER)
    if priority is None:
        return plan
    if priority not in get_args(Priority):
        message = f"{PRIORITY_HEADER} must be background or normal, not {priority[:40]!r}"
        raise bad_request(message, PRIORITY_HEADER)
    return replace(
        plan,
        requests=tuple(
            replace(one, priority=priority) if isinstance(one, GenerationRequest) else one
            for one in plan.requests
        ),
    )


def carry_out(order: ModelOrder, model: ServedModel, *, is_named: bool) -> bytes:
    """The response to *order*, once it is carried out. Where *model* only answers for a name that
    is unknown (not *is_named*), it stays loaded for all others, as long as its owner wants. Raises
    NotLoaded for a model that has to be loaded first."""
    if model.hosted is not None:
        if not order.loads:
            if is_named:
                model.hosted.unload()
        elif not model.hosted.is_loaded:
            raise NotLoaded(model.name)
        elif is_named and order.keep_alive_s is not None:
            model.hosted.keep_alive(order.keep_alive_s)
    return order.content


def _keeping_alive(plan: AnswerPlan) -> AnswerPlan:
    """*plan*, whose requests say how long their model stays loaded: with the answer, as it must not
    be unloaded just before it."""
    requests = (replace(one, keep_alive_s=plan.keep_alive_s) for one in plan.requests)
    return replace(plan, requests=tuple(requests))


def _begin(
    service: Service, streams: Streams, plan: AnswerPlan, model: ServedModel
) -> LiveAnswer | Viewer | None:
    """The answer, which the engine may still refuse; None: nobody follows it now."""
    if not plan.resumable:
        return LiveAnswer(_start(service, plan, model), plan.encoder, plan.format_field)
    assert isinstance(plan.encoder, StreamEncoder), "only streams can be resumable"
    options = plan.options
    background_id = options.id if plan.background else None
    recording = streams.open(options.owner, plan.encoder, background_id=background_id)
    try:
        source = _start(service, plan, model)
    except BaseException:
        streams.discard(recording)
        raise
    viewer = streams.watch(recording, 0, is_first=True) if plan.streams else None
    recording.begin(source, plan.format_field)
    return viewer


def _start(service: Service, plan: AnswerPlan, model: ServedModel) -> EventSource:
    if len(plan.requests) == 1:
        return service.start(plan.requests[0], plan.options, model)
    return Several(service, plan.requests, kept_local(plan.options), model)


def kept_local(options: RouteOptions) -> RouteOptions:
    """Several prompts at once are answered on the device."""
    if options.routing.only == "cloud_only":
        raise bad_request("cloud_only takes one prompt at a time", "spillover.only")
    return replace(options, routing=Routing(only="local_only"))


def add_stream_views(app: Flask, streams: Streams, settings: Settings) -> None:
    """GET and DELETE /v1/streams/ID. There is no list: only the client knows its stream's id."""

    def follow(stream_id: str) -> Response:
        recording = streams.find(stream_id, g.owner)
        after = cursor.asked(
            stream_id, request.headers.get("Last-Event-ID"), request.args.get("after")
        )
        log = recording.log
        if log.closed and after == log.last:
            return _nothing_more()
        if request.method == "HEAD":
            return Response(headers=SSE_HEADERS)
        return respond(streams.watch(recording, after), settings.keep_alive_s)

    def stop(stream_id: str) -> dict[str, Any]:
        recording = streams.find(stream_id, g.owner)
        was_running = not recording.log.closed
        if was_running:
            recording.stop("the answer was cancelled by its client")
        return {"id": stream_id, "object": "stream", "stopped": was_running}

    app.add_url_rule("/v1/streams/<stream_id>", "follow", follow)
    app.add_url_rule("/v1/streams/<stream_id>", "stop", stop, methods=["DELETE"])


def _nothing_more() -> Response:
    """The one answer after which a browser does not connect again."""
    response = Response(status=204)
    del response.headers["Content-Type"]
    return response
