"""Joins an answer that follows a response format: text that violates it is never shown."""

from __future__ import annotations

from spillover.cloud_fallback.errors import SeamFailed
from spillover.cloud_fallback.seam.continuation import Continuation
from spillover.cloud_fallback.seam.echo_search import EchoSearch
from spillover.cloud_fallback.seam.preamble import MAX_PREAMBLE_CHARS, is_preamble
from spillover.cloud_fallback.seam.search import Joined
from spillover.runtime.text.json_reader import JsonReader
from spillover.runtime.text.markdown import FENCE

MAX_HELD_CHARS = 1 << 16


class FormatSearch:
    """The whole answer was requested again, and the provider enforces the format.

    Text that cannot be shown to follow the answer is held until, with the answer, it is a complete
    JSON document; where it cannot become one, SeamFailed is raised. No time limit applies: a broken
    document is useless however early it comes.
    """

    is_sure = True

    def __init__(self, plan: Continuation) -> None:
        self._plan = plan
        self._echo: EchoSearch | None = EchoSearch(plan, rewrites=True)
        self.held = self._echo.held
        self._document = JsonReader()
        self._document.feed(plan.kept)

    def feed(self, character: str) -> Joined | None:
        if self._echo is not None:
            joined = self._echo.feed(character)
            return self._doubted(joined) if joined else None
        self.held.append(character)
        return self._read(character)

    def finish(self) -> Joined:
        joined = self._doubted(self._echo.finish()) if self._echo is not None else None
        joined = joined or self._anew(is_whole=True)
        if joined is None:
            raise SeamFailed("the new text ends before the document is complete")
        return joined

    give_up = finish

    def _doubted(self, joined: Joined) -> Joined | None:
        """*joined*, if it shows that the text follows; otherwise the text's own structure
        decides."""
        if joined.kind != "unverified":
            return joined
        self._echo = None
        return self._read("".join(self.held))

    def _read(self, text: str) -> Joined | None:
        self._document.feed(text)
        is_open = not self._document.is_broken and len(self.held) <= MAX_HELD_CHARS
        if self._plan.is_json and is_open:
            is_whole = self._document.has_ended
            return Joined(kind="unverified", start=0) if is_whole else None
        joined = self._anew(is_whole=False)
        if joined is None:
            raise SeamFailed("the new text does not fit the response format after what was sent")
        return joined

    def _anew(self, *, is_whole: bool) -> Joined | None:
        """A separate document, if the old one may be taken back."""
        plan = self._plan
        if not (plan.is_json and plan.can_replace):
            return None
        text = "".join(self.held)
        start = text.find(plan.kept.lstrip()[:1], 0, MAX_PREAMBLE_CHARS)
        before = text[: max(0, start)]
        is_lead = not before.strip() or is_preamble(before) or FENCE.search(before)
        if start < 0 or not is_lead:
            return None
        document = JsonReader()
        document.feed(text[start:])
        if document.is_broken or (is_whole and not document.has_ended):
            return None
        return Joined(kind="restart", start=start, place=len(plan.context))
