"""What a fake provider does with a request.

Everything is a value, so that a test reads as what it sets up:
``fake.script(Act(text="…", manner="restart", cut_after_chunks=3, cut="reset"))``.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from msgspec import Struct, field

Manner: TypeAlias = Literal[
    "anchor",
    "no_anchor",
    "restart",
    "rewrite",
    "preamble",
    "whitespace",
    "quoted",
    "fenced",
    "capitals",
    "misspelt",
    "nothing",
]
"""How a request to continue is answered: with the anchor repeated and the rest; the rest alone; the
whole text from the top; *rewrite*, another text from the top; *preamble* before the anchor; the
anchor with other whitespace, in quotation marks, in a code block with the rest, in capitals, or
with a wrong letter in the middle; without any text."""

Cut: TypeAlias = Literal["clean", "fin", "reset", "silence"]
"""How a stream breaks off: the body ends as if it were complete; the connection is closed, or
reset; nothing more comes, and the connection stays open."""

Kind: TypeAlias = Literal[
    "rate_limited",
    "auth",
    "permission",
    "billing",
    "context",
    "no_prefill",
    "bad_request",
    "content_policy",
    "not_found",
    "server_error",
    "unavailable",
    "overloaded",
    "timeout",
]
RetryForm: TypeAlias = Literal["none", "seconds", "date", "ms", "retry_info"]
Finish: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter"]


class ToolCall(Struct, frozen=True, kw_only=True):
    """A call that the fake asks for."""

    id: str = "call_1"
    name: str
    arguments: str = "{}"


class Tokens(Struct, frozen=True, kw_only=True):
    """The usage that the fake reports."""

    prompt: int = 11
    completion: int = 7
    cached: int = 0
    reasoning: int = 0


class Page(Struct, frozen=True, kw_only=True):
    """The response to a GET."""

    status: int = 200
    headers: dict[str, str] = {}
    body: str = "{}"


class Act(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one request is answered."""

    # What is said.
    text: str = "Hello from the cloud."
    """The whole answer; a request to continue gets what follows the part it shows."""
    rest: str | None = None
    """What a request to continue gets after its part, whatever that is; instead of *text*."""
    manner: Manner = "anchor"
    preamble: str = "Sure, continuing where I left off: "
    rewrite: str = "Quite another answer."
    reasoning: str = ""
    tagged_reasoning: str = ""
    """Goes before the text itself, with the tags around it, as servers without a parser for the
    model send it."""
    tool_calls: tuple[ToolCall, ...] = ()
    finish: Finish = "stop"
    usage: Tokens | Literal["auto"] | None = "auto"
    """"auto": a token per chunk; None: never sent."""
    takes_prefill: bool = True
    """False: a request that ends with an assistant's turn gets the provider's own 400."""
    ignores_prefill: bool = False
    """Such a request gets the whole text from the top."""
    noise: bool = True
    """The comments, pings, filter annotations and unknown events that this provider mixes in."""

    # How it is cut and timed.
    chunk_chars: int = 4
    chunks: tuple[str, ...] | None = None
    """The text's chunks themselves, instead of *text* and *manner*."""
    halves_pairs: bool = False
    """*chunk_chars* counts in UTF-16, as JavaScript does: a chunk may end within a character, whose
    halves are escaped."""
    first_delay_s: float = 0.0
    """Between the request and the response's first byte."""
    delay_s: float = 0.0
    """Before every chunk of text."""
    burst_chunks: int = 0
    burst_pause_s: float = 2.0
    """Wait after every *burst_chunks* chunks, as Azure's content filter makes it."""
    write_bytes: int = 0
    byte_delay_s: float = 0.0
    """Write the body in pieces of so many bytes, so long apart."""
    hold_before_response: bool = False
    hold_after_chunks: int | None = None
    """Wait there until the test calls release()."""

    # What goes wrong.
    refusal: Kind | None = None
    retry_form: RetryForm = "none"
    retry_after_s: float = 1.0
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None
    """A response of the test's own: instead of, or on top of, *refusal*."""
    redirect_to: str | None = None
    before_response: Cut | None = None
    """The connection breaks when the request has been read."""
    cut: Cut = "clean"
    cut_after_chunks: int | None = None
    cut_after_bytes: int | None = None
    """Bytes of the body, without the transfer encoding's."""
    no_terminal: bool = False
    """All the text, then a clean end without the terminal event."""
    error_after_chunks: int | None = None
    error_kind: Kind = "overloaded"
    error_form: Literal["frame", "raw_tail"] = "frame"
    malformed_after_chunks: int | None = None
    raw: tuple[str, ...] | None = None
    """The body's pieces themselves, in Latin-1, instead of everything else."""
    keep_alive: bool = True


class Recorded(Struct, kw_only=True):
    """A request that came, and what became of it. Times are of time.monotonic()."""

    n: int
    connection: int
    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: str
    arrived_at: float
    answered_at: float | None = None
    """The response's first byte was sent."""
    first_text_at: float | None = None
    ended_at: float | None = None
    ended: Literal["complete", "cut", "client_closed"] | None = None
    bytes_sent: int = 0
    """Of the body."""

    def json(self) -> Any:
        """The body as JSON."""
        import msgspec

        return msgspec.json.decode(self.body)


class Record(Struct, kw_only=True):
    """Everything that a fake has seen since its last reset."""

    accepted: int = 0
    """Connections that were opened."""
    open: int = 0
    requests: list[Recorded] = field(default_factory=list)
    """Those that are not GETs."""
    pages: list[str] = field(default_factory=list)
    """The path of each GET."""


class Until(Struct, kw_only=True, forbid_unknown_fields=True):
    """What a test waits for; all that are given must hold."""

    accepted: int | None = None
    """At least so many connections were opened."""
    open: int | None = None
    """Exactly so many are open."""
    requests: int | None = None
    """At least so many requests have come."""
    ended: int | None = None
    """At least so many are over."""
    holding: int | None = None
    """At least so many wait for release()."""
    timeout_s: float = 10.0
