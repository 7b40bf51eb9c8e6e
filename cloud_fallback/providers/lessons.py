"""What refusals have taught about a model of a provider."""

from __future__ import annotations

from spillover.cloud_fallback.errors import ProviderRefused

MOST_FIELDS = 8
"""Of a provider that refuses ever more fields, something else is the matter."""


class Lessons:
    """Kept as long as the process lives. May be used from any thread."""

    def __init__(self) -> None:
        self.no_prefill = False
        self.unsupported: frozenset[str] = frozenset()
        """Optional fields of a request that are left out."""

    def learn(self, error: ProviderRefused) -> bool:
        """Whether the request may go again, changed by what *error* says."""
        if error.no_prefill:
            self.no_prefill = True
        field = error.unsupported
        if field is None or field in self.unsupported or len(self.unsupported) >= MOST_FIELDS:
            return False
        self.unsupported |= {field}
        return True
