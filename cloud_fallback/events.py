"""What happens to an answer between its writers: consent, handoff, seam, replaced text, failure.

These events stand among those of the engines in the log of an answer.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

from spillover.runtime.events import EngineEvent, WriterId

HandoffMode: TypeAlias = Literal["continue", "restart", "finish_sentence", "at_turn"]
SeamKind: TypeAlias = Literal[
    "anchor", "overlap", "restart", "prefill", "exact", "fresh", "unverified"
]
"""How two texts were joined: the model repeated the anchor; its text overlapped ours; it began
from the top and was followed; it continued a prefilled turn; the tokens went on (local resume);
nothing had been said before; none of these could be shown."""


class Failed(Struct, frozen=True, kw_only=True, tag=True):
    """The stream ends here without being complete."""

    code: str
    message: str


class ExpectedCost(Struct, frozen=True, kw_only=True):
    """About what a request to a provider will cost, rather too much than too little."""

    prompt_tokens: int
    completion_tokens: int
    """Of the longest answer that the request or the budget allows, or of a usual one."""
    prompt_usd: float | None
    """US dollars for the prompt alone; None: the prices are not known."""
    usd: float | None
    """With such an answer."""


class ConsentAsked(Struct, frozen=True, kw_only=True, tag=True):
    """The stream waits up to *timeout_s* for the user's yes to a handoff; without one the local
    model goes on."""

    id: str
    reason: str
    target: WriterId
    timeout_s: float
    n_messages: int
    """Messages that would leave the device, with the unfinished answer."""
    redactions: int
    cost: ExpectedCost
    n_images: int = 0
    """Images that would leave it as they are: redaction does not look into them."""


class ConsentAnswered(Struct, frozen=True, kw_only=True, tag=True):
    """*granted* None: nobody answered in time."""

    id: str
    granted: bool | None


class ProviderFailed(Struct, frozen=True, kw_only=True, tag=True):
    """A provider that was to write does not, or stopped before its end; another writer goes on."""

    provider: WriterId
    address: str
    """Its base URL, which holds no key."""
    code: str
    """The kind of failure: "network", "auth", "rate_limited", …"""
    message: str
    """The cause, for people; without anything from the conversation."""


class Handoff(Struct, frozen=True, kw_only=True, tag=True):
    """Another writer takes over; what follows is its own."""

    seq: int
    """1 for the first handoff of the answer."""
    reason: str
    source: WriterId
    target: WriterId
    mode: HandoffMode
    keep_chars: int
    """Characters of the answer so far that stay; fewer than were sent only before a Replace."""
    signals: dict[str, float] = {}
    """The readings that led to it, with their thresholds."""
    redactions: int = 0


class Seam(Struct, frozen=True, kw_only=True, tag=True):
    """The new writer's first text is joined to the old one's."""

    seq: int
    kind: SeamKind
    trimmed_chars: int
    """Characters of the new writer's that were dropped: the anchor, a preamble, an overlap."""
    gap_ms: float
    """From the handoff's trigger to the new writer's first text."""


class Replace(Struct, frozen=True, kw_only=True, tag=True):
    """Only the first *keep_chars* characters of the answer of *choice* hold; text follows anew.
    For clients that asked for it; all others only ever see text appended."""

    choice: int = 0
    keep_chars: int


StreamEvent: TypeAlias = (
    EngineEvent
    | ConsentAsked
    | ConsentAnswered
    | ProviderFailed
    | Handoff
    | Seam
    | Replace
    | Failed
)
"""Everything that may stand in the log of an answer."""
