"""What some providers cannot be asked for: the errors that say so before anything is sent."""

from __future__ import annotations

from spillover.runtime.errors import InvalidRequest
from spillover.runtime.request import GenerationRequest


def begins_anew(provider: str) -> InvalidRequest:
    """*provider* cannot go on with an assistant's turn."""
    return InvalidRequest(f"{provider} begins a new turn instead of going on with one", "messages")


def holds_only(provider: str, forms: str) -> InvalidRequest:
    """*provider* can hold an answer to *forms*, and another was asked for."""
    return InvalidRequest(f"{provider} can hold an answer to {forms}, and to no other form", "form")


def check_parallel(request: GenerationRequest, provider: str) -> None:
    """Raises InvalidRequest where one call at a time is asked of *provider*, which has no word
    for it."""
    if not request.parallel_tool_calls:
        raise InvalidRequest(
            f"{provider} cannot be kept from calling several tools at once", "parallel_tool_calls"
        )
