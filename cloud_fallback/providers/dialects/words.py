"""From the texts of a provider's event to what they add to the answer."""

from __future__ import annotations

from spillover.cloud_fallback.providers.dialects.dialect import Part
from spillover.runtime.events import Delta, ReasoningDelta


def words(text: str, reasoning: str | None = None) -> list[Part]:
    """A delta for each of the two that says something, the reasoning first."""
    parts: list[Part] = [ReasoningDelta(text=reasoning)] if reasoning else []
    return [*parts, Delta(text=text)] if text else parts
