"""How answers are routed between the device and the cloud."""

from __future__ import annotations

import secrets
from typing import Annotated

from msgspec import Meta, Struct, field

from spillover.cloud_fallback.events import HandoffMode
from spillover.cloud_fallback.route.allowed import Routing
from spillover.runtime.setting_help import Help


def new_answer_id() -> str:
    """128 random bits, so that no client can guess the id of another's answer."""
    return secrets.token_hex(16)


class RouteSettings(Struct, frozen=True, kw_only=True):
    """How an answer moves between the device and the cloud."""

    mode: Annotated[
        HandoffMode, Help("How a running answer is handed over.", flag="--handoff-mode")
    ] = field(default="continue", name="handoff_mode")
    max_handoffs: Annotated[
        int, Meta(ge=1, le=16), Help("Most changes of writer within one answer.")
    ] = 4
    """After that many, the answer ends where it is."""
    max_cloud_tokens: Annotated[
        int,
        Meta(ge=16, le=10_000_000),
        Help("About how many tokens a provider may write for one answer."),
    ] = 32_768
    """Including reasoning. A request with a larger max_tokens gets more."""
    consent_timeout_s: Annotated[
        float,
        Meta(gt=0, le=600),  # consent.MAX_WAIT_S
        Help("Seconds for which a question for your consent is open."),
    ] = 60.0
    grace_tokens: Annotated[
        int,
        Meta(ge=0, le=1_024),
        Help("Most tokens the local model may add to end its sentence (finish_sentence)."),
    ] = 48
    grace_s: Annotated[
        float,
        Meta(gt=0, le=3_600),
        Help("Most seconds the local model may take to end its sentence (finish_sentence)."),
    ] = 6.0
    crash_patience_s: Annotated[
        float,
        Meta(gt=0, le=3_600),
        Help("Seconds a restarted worker has to continue before the cloud takes over."),
    ] = 2.0
    warms_connections: Annotated[
        bool, Help("Connect to the first provider when an answer begins (fallback = auto).")
    ] = True


class RouteOptions(Struct, frozen=True, kw_only=True):
    """What the caller wants from the route of one answer."""

    id: str = field(default_factory=new_answer_id)
    """Names the answer in consent questions, in records, and for an explicit handoff."""
    owner: str = ""
    """Who asked for it, in the records."""
    routing: Routing = Routing()
    mode: HandoffMode | None = None
    can_answer: bool = True
    """Whether the client shows the question to a user, and returns the reply."""
    may_replace: bool = False
    """Whether the client understands Replace; all others only ever see text appended."""
