"""Handoffs and what belongs to them as JSON, for clients that asked for it and for the records."""

from __future__ import annotations

from typing import Any, TypeAlias

from spillover.cloud_fallback.events import (
    ConsentAnswered,
    ConsentAsked,
    Handoff,
    ProviderFailed,
    Replace,
    Seam,
)
from spillover.cloud_fallback.policy.reason import in_words
from spillover.runtime.events import Leg, WriterId

IMAGES_LEAVE = "images leave this device as they are: redaction does not look into them"

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
        "privacy": {"redacted": event.redactions, **images_warning(event.n_images)},
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
