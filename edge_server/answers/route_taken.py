"""Who has written an answer so far, as a response's head tells it."""

from __future__ import annotations

from spillover.cloud_fallback.events import Handoff, StreamEvent
from spillover.runtime.events import Prefilling, Queued

ID_HEADER = "X-Spillover-Response-Id"
ROUTE_HEADER = "X-Spillover-Route"


class RouteTaken:
    """The writers of one answer in order, each with its provider and the reason of its handoff. In
    the notation of RFC 9651: local, cloud;provider="name";reason=code."""

    def __init__(self) -> None:
        self._writers: list[str] = []

    def see(self, event: StreamEvent) -> None:
        """Note what *event* tells of it; called for each event but those that carry text."""
        match event:
            case Handoff(target=target, reason=reason):
                provider = f';provider="{target.provider}"' if target.provider else ""
                self._writers.append(f"{target.origin}{provider};reason={reason}")
            case Queued(n_prompt_tokens=0):  # it waits for a provider
                pass
            case Queued() | Prefilling() if not self._writers:
                self._writers.append("local")

    def __str__(self) -> str:
        return ", ".join(self._writers)


def answer_headers(answer_id: str, route: RouteTaken) -> dict[str, str]:
    """What names an answer, and its writers as far as they are known."""
    known = str(route)
    return {ID_HEADER: answer_id, **({ROUTE_HEADER: known} if known else {})}
