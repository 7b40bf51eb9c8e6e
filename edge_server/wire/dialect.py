"""What a dialect of the endpoint gives: plans for request bodies, and the shape of errors."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from spillover.cloud_fallback.route.settings import RouteOptions
from spillover.edge_server.wire.encoder import Encoder, ErrorBody
from spillover.runtime.engine import TextEngine
from spillover.runtime.request import GenerationRequest


class AnswerRequest(Struct, frozen=True, kw_only=True):
    """An HTTP request for an answer."""

    content: bytes
    engine: TextEngine
    """Knows the model's context and tokens."""
    options: RouteOptions
    """The answer's id and owner, and what headers ask for; the body may say otherwise."""
    resume: bool = False
    """A header asks for a stream that can be taken up again; the body may say otherwise."""


class AnswerPlan(Struct, frozen=True, kw_only=True):
    """What a request asks for: what to generate, and how to encode it."""

    requests: tuple[GenerationRequest, ...]
    """One for each prompt; choices are numbered on from prompt to prompt."""
    encoder: Encoder
    options: RouteOptions
    resumable: bool = False
    """Only for streams of server-sent events."""
    format_field: str | None = None
    """The body's field that asks for a response format."""


class Endpoint(Struct, frozen=True, kw_only=True):
    """One row of the table of endpoints."""

    paths: tuple[str, ...]
    plan: Callable[[AnswerRequest], AnswerPlan]
    """Raises WireError, and what the engine raises for a prompt that it cannot read."""
    error_body: ErrorBody
    """The JSON of an error, also of one before the body was read."""
    prefix: str | None = None
    """All paths that begin so have this shape of errors, too."""
