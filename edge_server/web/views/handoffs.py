"""The routes of handoffs: what happened, what it cost, and what the user decides."""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec
from flask import Flask, g, request

from spillover.cloud_fallback.privacy.consent import ConsentScope, PendingConsent
from spillover.cloud_fallback.spending.journal import HandoffRecord
from spillover.edge_server.answers.service import Service
from spillover.edge_server.web.views.query import number_in_query
from spillover.edge_server.wire import handoff, spending
from spillover.edge_server.wire.errors import WireError
from spillover.edge_server.wire.request_body import decode
from spillover.runtime.errors import SpilloverError

_MAX_LISTED = 200
_PREFIX = re.compile("^[a-z]+[-_]")


class HandoffBody(msgspec.Struct, frozen=True):
    """POST /v1/handoffs: who continues a running answer."""

    id: str
    to: Literal["cloud", "local"] = "cloud"


class ConsentBody(msgspec.Struct, frozen=True):
    """POST /v1/consents/ID: the user's decision."""

    granted: bool
    scope: ConsentScope | None = None
    """What it holds for, with this provider."""
    remember: bool = False
    """The same as the scope "chat"."""


def add_handoff_views(app: Flask, service: Service) -> None:
    """GET and POST /v1/handoffs, GET /v1/consents, GET and POST /v1/consents/ID, GET /v1/budget."""

    def handoffs() -> dict[str, Any]:
        limit = number_in_query("limit", 50, least=1, most=_MAX_LISTED)
        before = number_in_query("before", 0, least=1, most=2**62)
        records = service.router.recent(limit, before=before or None, owner=g.owner)
        return {"object": "list", "data": [_record(record) for record in records]}

    def hand_over() -> tuple[dict[str, Any], int]:
        body = decode(request.get_data(), HandoffBody)
        answer_id = _answer_id(body.id)
        if service.running(answer_id, g.owner) is None:
            raise WireError(404, "there is no running answer with this id", "id")
        router = service.router
        if body.to == "local":
            router.keep_local(answer_id)  # else it could not leave anyway
        elif not router.hand_over(answer_id):
            why = router.handoff_problem(answer_id) or "the local model is not writing it now"
            raise WireError(409, f"nobody can take over this answer: {why}")
        return {"id": body.id, "to": body.to}, 202

    def own_questions() -> list[PendingConsent]:
        return [
            question
            for question in service.router.pending_consents()
            if service.running(question.answer_id, g.owner) is not None
        ]

    def consents() -> dict[str, Any]:
        pending = [_question(question) for question in own_questions()]
        standing = [
            {"provider": decision.provider, "granted": decision.granted}
            for decision in service.router.standing_consents(g.owner)
        ]
        return {"object": "list", "data": pending, "standing": standing}

    def consent(consent_id: str) -> dict[str, Any]:
        for question in own_questions():
            if question.asked.id == consent_id:
                return _question(question) | _planned(question)
        raise WireError(404, "there is no such open question")

    def decide(consent_id: str) -> dict[str, Any]:
        body = decode(request.get_data(), ConsentBody)
        own = [
            question
            for question in service.router.pending_consents()
            if question.asked.id == consent_id
        ]
        if own and service.running(own[0].answer_id, g.owner) is None:
            raise WireError(404, "there is no such question")
        scope = body.scope or ("chat" if body.remember else "once")
        reply = service.router.consent(consent_id, body.granted, scope=scope)
        if reply == "unknown":
            raise WireError(404, "there is no such question")
        if reply == "already_decided":
            raise WireError(409, "this question has been answered already")
        if reply == "too_late":
            raise WireError(
                409,
                "nobody waits for this reply any more: its time has passed, or the answer ended",
            )
        return {"id": consent_id, "granted": body.granted, "scope": scope}

    def budget() -> dict[str, Any]:
        return spending.listed(service.router.spending())

    app.add_url_rule("/v1/budget", "budget", budget)
    app.add_url_rule("/v1/handoffs", "handoffs", handoffs)
    app.add_url_rule("/v1/handoffs", "hand_over", hand_over, methods=["POST"])
    app.add_url_rule("/v1/consents", "consents", consents)
    app.add_url_rule("/v1/consents/<consent_id>", "consent", consent)
    app.add_url_rule("/v1/consents/<consent_id>", "decide", decide, methods=["POST"])


def _question(question: PendingConsent) -> dict[str, Any]:
    return handoff.consent_asked(question.asked) | {"answer_id": question.answer_id}


def _planned(question: PendingConsent) -> dict[str, Any]:
    """What would be sent now: more may have been written since the user was asked."""
    try:
        return handoff.planned(question.plan())
    except SpilloverError as error:
        raise WireError(409, f"nothing would be sent now: {error}") from error


def _answer_id(text: str) -> str:
    """The id of an answer, without the prefix that its dialect gives it."""
    return _PREFIX.sub("", text)


def _record(record: HandoffRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "at": record.at.isoformat(),
        "answer_id": record.answer_id,
        **handoff.handoff(record.handoff),
        "seam": None if record.seam is None else handoff.seam(record.seam),
        "by_leg": [handoff.leg(leg) for leg in record.legs],
    }
