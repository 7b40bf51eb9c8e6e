"""What some providers cannot be asked for: the errors that say so before anything is sent."""

from __future__ import annotations

from spillover.runtime.errors import InvalidRequest, ResponseFormatRefused
from spillover.runtime.request import GenerationRequest


def begins_anew(provider: str) -> InvalidRequest:
    """*provider* cannot go on with an assistant's turn."""
    return InvalidRequest(f"{provider} begins a new turn instead of going on with one", "messages")


def holds_only(provider: str, formats: str) -> ResponseFormatRefused:
    """*provider* can hold an answer to *formats*, and another was asked for."""
    return ResponseFormatRefused(f"{provider} can hold an answer to {formats} only")


def check_parallel(request: GenerationRequest, provider: str) -> None:
    """Raises InvalidRequest where one call at a time is asked of *provider*, which has no word
    for it."""
    if not request.parallel_tool_calls:
        raise InvalidRequest(
            f"{provider} cannot be kept from calling several tools at once", "parallel_tool_calls"
        )
