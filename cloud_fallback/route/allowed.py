"""Where an answer may be written: what the owner allows and the request asks for. Pure."""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

from spillover.runtime.errors import InvalidRequest
from spillover.runtime.events import Origin

Fallback: TypeAlias = Literal["never", "ask", "auto"]
"""Whether answers may leave the device; "ask": only with the user's consent, each time."""

Place: TypeAlias = Literal["local_only", "cloud_only"]

STRICTEST_FIRST: tuple[Fallback, ...] = ("never", "ask", "auto")


class Routing(Struct, frozen=True, kw_only=True):
    """What the owner (in the configuration) or the caller (in the request) wants. None: no
    preference."""

    fallback: Fallback | None = None
    only: Place | None = None
    prefer: Origin | None = None
    """Who writes first when both may."""
    unasked: Fallback = "never"
    """The owner's: what "ask" means for a client that cannot be asked."""


class Allowed(Struct, frozen=True, kw_only=True):
    """Where one answer may be written, and where it begins."""

    local: bool
    cloud: Fallback
    first: Origin

    @property
    def may_leave(self) -> bool:
        """Whether anything may leave the device, if only with consent."""
        return self.cloud != "never"


def allowed(owner: Routing, request: Routing, *, can_answer: bool = True) -> Allowed:
    """The stricter of both: a request can narrow what the owner allows, never widen it.
    *can_answer*: the client can be asked for consent.

    Raises InvalidRequest when no writer is left.
    """
    places = {owner.only, request.only}
    cloud = "never" if "local_only" in places else strictest(owner.fallback, request.fallback)
    local = "cloud_only" not in places
    must_ask = cloud == "ask"
    if must_ask and not can_answer:
        # A request that wants to be asked is never handed over without.
        cloud = owner.unasked
        if request.fallback == "ask" and cloud == "auto":
            cloud = "never"
    if not local and cloud == "never":
        message = _NOBODY_TO_ASK if must_ask else _nothing_left(owner, request)
        raise InvalidRequest(message, "routing")
    first = request.prefer or owner.prefer or "local"
    if not local or cloud == "never":
        first = "local" if local else "cloud"
    return Allowed(local=local, cloud=cloud, first=first)


_NOBODY_TO_ASK = (
    "the request is cloud_only and needs the user's consent, but its client cannot show a question:"
    " ask for events, or set fallback_unasked in the configuration"
)


def strictest(*wishes: Fallback | None) -> Fallback:
    """The strictest of *wishes* that are not None; "never" if there are none."""
    return min((wish for wish in wishes if wish), key=STRICTEST_FIRST.index, default="never")


def _nothing_left(owner: Routing, request: Routing) -> str:
    if request.only == "local_only" and owner.only == "cloud_only":
        return "the request is local_only, but this device answers only with cloud providers"
    if request.only == "cloud_only" and request.fallback != "never":
        return (
            "the request is cloud_only, but the owner of this device lets nothing leave it: "
            "omit cloud_only, or set fallback to ask or auto in the configuration"
        )
    return "cloud_only with fallback = never leaves no writer: drop one of them"
