"""How answers are routed between the device and the cloud: the only place of these defaults."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from spillover.cloud_fallback.events import HandoffMode
from spillover.cloud_fallback.route.routing import Routing

Seconds = Annotated[float, Meta(gt=0, le=3_600)]


class RouteSettings(Struct, frozen=True, kw_only=True):
    """The owner's wishes for all answers."""

    mode: HandoffMode = "continue"
    max_handoffs: Annotated[int, Meta(ge=1, le=16)] = 4
    """Changes of the writer within one answer; then it ends where it is."""
    max_cloud_tokens: Annotated[int, Meta(ge=16, le=10_000_000)] = 32_768
    """A provider is stopped after about so many tokens for one answer, reasoning included; more
    only where a request's max_tokens is."""
    consent_timeout_s: Seconds = 60.0
    """How long a stream waits for the user's yes before the local model goes on."""
    grace_tokens: Annotated[int, Meta(ge=0, le=1_024)] = 48
    """With finish_sentence: most tokens that the local model may still write."""
    grace_s: Seconds = 6.0
    crash_patience_s: Seconds = 2.0
    """How long a restarted worker has to go on by itself before the cloud takes over."""
    warms_connections: bool = True
    """With fallback auto: open a connection to the first provider when an answer begins."""


class Wishes(Struct, frozen=True, kw_only=True):
    """What the caller of one answer wants of its route."""

    routing: Routing = Routing()
    mode: HandoffMode | None = None
    may_replace: bool = False
    """The client understands Replace; all others only ever see text appended."""


class Call(Struct, frozen=True, kw_only=True):
    """One answer that is asked for."""

    id: str
    """Names the answer in consent questions, in records, and for an explicit handoff."""
    owner: str = ""
    """Who asked for it, in the records."""
    wishes: Wishes = Wishes()
