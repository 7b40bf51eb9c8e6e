"""The shape that all dialects have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol, TypeAlias

from msgspec import Struct

from spillover.cloud_fallback.errors import ProviderError
from spillover.runtime.events import Delta, FinishReason, ReasoningDelta, ToolCallDelta
from spillover.runtime.request import GenerationRequest

Framing: TypeAlias = Literal["sse", "eventstream"]
"""How a stream is cut into events: server-sent events, or AWS's binary frames."""


class HttpRequest(Struct, frozen=True, kw_only=True):
    """A POST without the provider's base address and without the key."""

    path: str
    """Appended to the base address; it may carry a query."""
    headers: dict[str, str]
    body: bytes
    stop: tuple[str, ...] = ()
    """The stop strings that the provider looks for itself; all others are the caller's to find."""
    own_stops: tuple[str, ...] = ()
    """Stop strings that the dialect added; its decoder cuts the answer there."""
    prefilled: str = ""
    """The unfinished assistant's turn as it was sent, which the model goes on with."""
    trimmed: str = ""
    """White space that had to be cut from the end of that turn: prefilled + trimmed is the turn.
    The decoder takes its repetition off the answer, so the answer joins the whole turn."""


class Frame(Struct, frozen=True, kw_only=True):
    """One event of a provider's stream: its name ("" where it has none) and its data."""

    name: str = ""
    data: bytes
    is_exception: bool = False
    """An eventstream's frame of the message type "exception"; its name is the exception's."""


class ProviderUsage(Struct, frozen=True, kw_only=True):
    """Tokens as the provider counted them, and will bill them."""

    prompt_tokens: int
    completion_tokens: int
    """Reasoning included."""
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class End(Struct, frozen=True, kw_only=True):
    """The provider said that its answer is complete."""

    reason: FinishReason
    stop: str | None = None
    usage: ProviderUsage | None = None
    model: str | None = None
    """The model that answered, where the provider says so."""


Part: TypeAlias = Delta | ReasoningDelta | ToolCallDelta


class Decoder(Protocol):
    """The state machine of one stream."""

    @property
    def is_done(self) -> bool:
        """Nothing more will come: reading may stop, even where the provider keeps the connection
        open. Some formats know no such mark and end with the stream alone."""
        ...

    @property
    def is_complete(self) -> bool:
        """The answer is whole, whatever becomes of the stream: at most its usage is missing.
        Some formats only know it when the stream has ended well."""
        ...

    def feed(self, frame: Frame) -> list[Part]:
        """What *frame* adds to the answer; unknown frames add nothing.

        Raises ProviderError for an error inside the stream, a malformed frame included.
        """
        ...

    def end(self, tail: bytes = b"") -> End:
        """The stream is over; *tail* is the last of its bytes that belonged to no event.

        Raises Truncated when the terminal event is missing, and the error that *tail* holds
        where a provider writes one there.
        """
        ...


class Dialect(Protocol):
    """One provider's wire format. Pure: no clock, no socket, no environment."""

    @property
    def framing(self) -> Framing: ...

    def key_headers(self, key: str) -> dict[str, str]:
        """The headers that carry *key*."""
        ...

    def encode(
        self,
        request: GenerationRequest,
        model: str,
        *,
        prefill: bool,
        without: frozenset[str] = frozenset(),
    ) -> HttpRequest:
        """The request as this provider takes it.

        *prefill*: the last message is an assistant's, which *model* is to go on with; without it
        such a message is a finished turn. *without*: optional fields that *model* has refused
        (ProviderRefused.unsupported) and that are left out.

        Forms, tools, stop strings and the number of tokens hold to the letter: what cannot be
        expressed raises InvalidRequest. Sampling is advice: values left at our defaults are the
        provider's to choose, and a provider that has no such sampler goes without it.
        """
        ...

    def decoder(self, sent: HttpRequest | None = None) -> Decoder:
        """For the answer to *sent*; needed where a turn was prefilled or a stop string is ours."""
        ...

    def error(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        """What an answer with another status than 200 means; *headers* in lower case.

        The provider's own words stay out of the message, since they may repeat the request.
        """
        ...

    def may_prefill(self, model: str) -> bool:
        """Whether *model* is known to continue a trailing assistant turn."""
        ...
