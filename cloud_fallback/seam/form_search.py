"""Joins an answer that must have a given form: what does not fit is never shown."""

from __future__ import annotations

from spillover.cloud_fallback.errors import SeamFailed
from spillover.cloud_fallback.seam.continuation import Continuation
from spillover.cloud_fallback.seam.echo_search import EchoSearch
from spillover.cloud_fallback.seam.json_prefix import JsonPrefix
from spillover.cloud_fallback.seam.search import Joined

MAX_PREAMBLE_CHARS = 200
MAX_HELD_CHARS = 1 << 16


class FormSearch:
    """The whole answer was asked for once more, and the provider holds it to the form.

    Text that cannot be shown to follow the answer is held until, with the answer, it is a
    complete JSON document; where it cannot become one, SeamFailed is raised. Time does not end
    this: a broken document is of no use however early it comes.
    """

    is_sure = True

    def __init__(self, plan: Continuation) -> None:
        self._plan = plan
        self._echo: EchoSearch | None = EchoSearch(plan, rewrites=True)
        self.held = self._echo.held
        self._document = JsonPrefix()
        if plan.is_json:
            self._document.feed(plan.kept)

    def feed(self, character: str) -> Joined | None:
        if self._echo is not None:
            joined = self._echo.feed(character)
            return self._doubted(joined) if joined else None
        self.held.append(character)
        return self._read(character)

    def _doubted(self, joined: Joined, *, is_whole: bool = False) -> Joined | None:
        """*joined*, if it shows that the text follows; else the text's own structure decides."""
        if joined.kind != "unverified":
            return joined
        self._echo = None
        text = "".join(self.held)
        anew = self._anew(text, is_whole=is_whole)
        if anew:
            return anew
        if joined.lead is not None or not self._plan.is_json:
            raise SeamFailed("the new text departs from the answer, whose form allows no break")
        return self._read(text)

    def _anew(self, text: str, *, is_whole: bool) -> Joined | None:
        """A document of its own, where the old one may be taken back."""
        first = self._plan.kept.lstrip()[:1]
        if not (self._plan.is_json and self._plan.can_replace and first in ("{", "[")):
            return None
        start = text.find(first, 0, MAX_PREAMBLE_CHARS)
        if start < 0:
            return None
        document = JsonPrefix()
        document.feed(text[start:])
        if document.is_bad or (is_whole and not document.is_done):
            return None
        return Joined(kind="restart", start=start, place=len(self._plan.context))

    def _read(self, text: str) -> Joined | None:
        self._document.feed(text)
        if self._document.is_bad or len(self.held) > MAX_HELD_CHARS:
            raise SeamFailed("the new text does not go on with the JSON document that was begun")
        return Joined(kind="unverified", start=0) if self._document.is_done else None

    def give_up(self) -> Joined:
        return self.finish()

    def finish(self) -> Joined:
        joined = None
        if self._echo is not None:
            joined = self._doubted(self._echo.finish(), is_whole=True)
        if joined is None:
            raise SeamFailed("the new text ends before the JSON document is complete")
        return joined
