"""Handoffs and what belongs to them as JSON, for clients that asked for it and for the records."""

from __future__ import annotations

from typing import Any, TypeAlias

from spillover.cloud_fallback.events import (
    ConsentAnswered,
    ConsentAsked,
    ExpectedCost,
    Handoff,
    ProviderFailed,
    Replace,
    Seam,
)
from spillover.cloud_fallback.policy.reason import in_words
from spillover.cloud_fallback.privacy.consent import Planned
from spillover.runtime.events import Leg, WriterId
from spillover.runtime.request import GenerationRequest, Message

IMAGES_LEAVE = "images leave this device as they are: redaction does not look into them"

MAX_PREVIEW_CHARS = 24_000
"""Of all messages of a preview, and at most a quarter of it of one message."""

RouteEvent: TypeAlias = ConsentAsked | ConsentAnswered | ProviderFailed | Handoff | Seam | Replace


def named(event: RouteEvent) -> tuple[str, dict[str, Any]]:
    """The SSE event name and the object of *event*."""
    match event:
        case Handoff():
            return "handoff", handoff(event)
        case Seam():
            return "seam", seam(event)
        case ConsentAsked():
            return "consent", consent_asked(event)
        case ConsentAnswered():
            return "consent", {
                "type": "consent_answered",
                "id": event.id,
                "granted": event.granted,
            }
        case ProviderFailed():
            return "provider", provider_failed(event)
        case Replace():
            return "replace", {"type": "replace", "keep_chars": event.keep_chars}


def writer(value: WriterId) -> dict[str, Any]:
    return {"origin": value.origin, "model": value.model, "provider": value.provider}


def handoff(event: Handoff) -> dict[str, Any]:
    return {
        "type": "handoff",
        "seq": event.seq,
        "reason": event.reason,
        "reason_in_words": in_words(event.reason),
        "from": writer(event.source),
        "to": writer(event.target),
        "mode": event.mode,
        "keep_chars": event.keep_chars,
        "signals": event.signals,
        "privacy": {"redacted": event.redactions},
    }


def provider_failed(event: ProviderFailed) -> dict[str, Any]:
    return {
        "type": "provider_failed",
        "provider": writer(event.provider),
        "address": event.address,
        "code": event.code,
        "message": event.message,
    }


def seam(event: Seam) -> dict[str, Any]:
    return {
        "type": "seam",
        "seq": event.seq,
        "seam": event.kind,
        "trimmed_chars": event.trimmed_chars,
        "gap_ms": round(event.gap_ms, 3),
    }


def consent_asked(event: ConsentAsked) -> dict[str, Any]:
    return {
        "type": "consent_asked",
        "id": event.id,
        "reason": event.reason,
        "reason_in_words": in_words(event.reason),
        "to": writer(event.target),
        "timeout_s": event.timeout_s,
        "n_messages": event.n_messages,
        "n_images": event.n_images,
        "estimate": expected_cost(event.cost),
        "privacy": {"redacted": event.redactions, **images_warning(event.n_images)},
    }


def expected_cost(cost: ExpectedCost) -> dict[str, Any]:
    usd = None
    if cost.usd is not None:
        usd = {"prompt": cost.prompt_usd, "with_answer": cost.usd}
    return {
        "prompt_tokens": cost.prompt_tokens,
        "completion_tokens": cost.completion_tokens,
        "usd": usd,
    }


def planned(value: Planned) -> dict[str, Any]:
    """What a question's event has of its request, as of now, and the preview."""
    request = value.request
    return {
        "n_messages": len(request.messages),
        "n_images": request.n_images,
        "privacy": {"redacted": value.redactions, **images_warning(request.n_images)},
        "preview": {**preview(request), "may_grow": value.may_grow},
    }


def preview(request: GenerationRequest) -> dict[str, Any]:
    """What would be sent, for people: the latest messages, as far as MAX_PREVIEW_CHARS go."""
    shown: list[dict[str, Any]] = []
    left = MAX_PREVIEW_CHARS
    for message in reversed(request.messages):
        if left <= 0:
            break
        shown.append(_previewed(message, min(left, MAX_PREVIEW_CHARS // 4)))
        left -= len(shown[-1]["text"])
    return {
        "messages": shown[::-1],
        "n_earlier_messages": len(request.messages) - len(shown),
        "tools": [tool.name for tool in request.tools],
    }


def _previewed(message: Message, most: int) -> dict[str, Any]:
    """The start and the end of what is too long."""
    calls = [f"{call.name}({call.arguments})" for call in message.tool_calls]
    text = "\n".join(filter(None, [message.content, *calls]))
    left_out = max(len(text) - most, 0)
    half = most // 2
    return {
        "role": message.role,
        "text": f"{text[:half]} … {text[len(text) - half :]}" if left_out else text,
        "left_out_chars": left_out,
        "n_images": len(message.images),
    }


def images_warning(n_images: int) -> dict[str, str]:
    """What the user should know before images leave."""
    return {"warning": IMAGES_LEAVE} if n_images else {}


def leg(value: Leg) -> dict[str, Any]:
    """One writer's share in the usage of an answer."""
    return {
        **writer(value.writer),
        "prompt_tokens": value.prompt_tokens,
        "completion_tokens": value.completion_tokens,
        "reasoning_tokens": value.reasoning_tokens,
        "ms": round(value.duration_ms, 3),
        "usd": value.cost_usd,
        "estimated": value.estimated,
    }
