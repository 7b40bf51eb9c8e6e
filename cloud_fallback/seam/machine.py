"""Joins the text of a new writer to the answer, as it comes in."""

from __future__ import annotations

from typing import TypeAlias

from spillover.cloud_fallback.errors import SeamFailed
from spillover.cloud_fallback.seam.continuation import Continuation
from spillover.cloud_fallback.seam.folding import fold, raw_length_from_end
from spillover.cloud_fallback.seam.json_prefix import JsonPrefix
from spillover.cloud_fallback.seam.markup import open_fence
from spillover.cloud_fallback.seam.repair import bridge, repaired
from spillover.cloud_fallback.seam.search import (
    EchoSearch,
    Joined,
    PrefillSearch,
    RestartSearch,
    Search,
)
from spillover.cloud_fallback.seam.splice import Splice, closing_quote
from spillover.cloud_fallback.seam.trailing import JsonEnd, Unwrapped
from spillover.runtime.events import Replace, SeamKind

HOLD_S = 1.5
"""Text that neither repeats the answer nor clearly begins it is shown after this time."""

Piece: TypeAlias = str | Replace


class SeamMachine:
    """Takes the new writer's text, gives what the client is to see.

    Text is held back only until it is known how it joins; from then on it passes through. Pure:
    the caller tells the time, in seconds of any clock, and calls on_deadline() when
    hold_deadline() has passed without text.
    """

    def __init__(self, plan: Continuation) -> None:
        self._plan = plan
        self._search: Search | None = _search_for(plan)
        self._splice: Splice | None = None
        self._filters: list[JsonEnd | Unwrapped] = []
        self._deadline: float | None = None
        self._n_taken = 0
        self._n_given = 0
        self.settled: SeamKind | None = None
        """How the texts were joined; None while that is not known."""
        if self._search is None:
            self.settled = "restart" if plan.takes_back else "fresh"

    @property
    def trimmed_chars(self) -> int:
        """Characters of the new writer's text that were dropped so far."""
        return max(0, self._n_taken - self._n_given)

    def hold_deadline(self) -> float | None:
        """When held text must be shown; None: nothing is held, or no time limit holds for it."""
        is_sure = self._search is None or self._search.is_sure
        return None if is_sure else self._deadline

    def feed(self, text: str, now: float) -> list[Piece]:
        """What the client may see after *text*, which came at *now*."""
        if self._search is None and self._splice is None and not self._filters:
            return [text] if text else []
        self._n_taken += len(text)
        if self._search is None:
            return self._given([], self._pass(text))
        if self._deadline is None and text:
            self._deadline = now + HOLD_S
        for index, character in enumerate(text):
            joined = self._search.feed(character)
            if joined:
                return self._settle(joined, text[index + 1 :])
        return self.on_deadline(now)

    def on_deadline(self, now: float) -> list[Piece]:
        """What must be shown at *now*, should the time for holding it back be over."""
        deadline = self.hold_deadline()
        if deadline is None or now < deadline or self._search is None:
            return []
        return self._settle(self._search.give_up(), "")

    def end(self) -> list[Piece]:
        """The rest, when the new writer's text is complete."""
        pieces: list[Piece] = []
        if self._search is not None:
            pieces = self._settle(self._search.give_up(), "")
        text = self._splice.flush() if self._splice else ""
        for one in self._filters:
            text = one.feed(text) + one.flush()
        self._splice, self._filters = None, []
        return self._given(pieces, text)

    def _settle(self, joined: Joined, more: str) -> list[Piece]:
        assert self._search is not None
        text = joined.rest + "".join(self._search.held[joined.start :]) + more
        self._search = None
        self.settled = joined.kind
        plan = self._plan
        known = plan.context + plan.kept
        pieces: list[Piece] = []
        if plan.left_behind:
            self.settled = "unverified"
            return self._given(pieces, bridge(plan.left_behind) + text.lstrip())
        if joined.place is not None:
            known = known[: joined.place]
            pieces.append(Replace(keep_chars=joined.place - len(plan.context)))
        elif joined.starts_over:
            text = bridge(known) + text.lstrip()
        elif joined.kind == "unverified":
            text = repaired(known, text)
        else:
            self._splice = self._splice_for(joined)
        self._filters = self._filters_for(joined, known)
        return self._given(pieces, self._pass(text))

    def _splice_for(self, joined: Joined) -> Splice | None:
        plan = self._plan
        begin = len(plan.told) - raw_length_from_end(plan.told, joined.n_repeated)
        before = plan.told[:begin].rstrip()[-1:]
        quote = joined.skipped.rstrip()[-1:]
        is_own = bool(quote) and fold(before) == fold(quote)
        closing = "" if is_own else closing_quote(joined.skipped)
        return Splice(plan.pending, closing=closing, is_json=plan.is_json)

    def _filters_for(self, joined: Joined, known: str) -> list[JsonEnd | Unwrapped]:
        if self._plan.is_json:
            document = JsonPrefix()
            document.feed(known[len(self._plan.context) :])
            return [] if document.is_bad else [JsonEnd(document)]
        wraps = open_fence(joined.skipped) is not None and open_fence(known) is None
        return [Unwrapped()] if wraps else []

    def _pass(self, text: str) -> str:
        if self._splice is not None:
            text = self._splice.feed(text)
            if self._splice.is_done:
                if self._splice.conflicts:
                    raise SeamFailed("the new text does not go on from the escape that was sent")
                self._splice = None
        for one in self._filters:
            text = one.feed(text)
        return text

    def _given(self, pieces: list[Piece], text: str) -> list[Piece]:
        if text:
            self._n_given += len(text)
            pieces.append(text)
        return pieces


def _search_for(plan: Continuation) -> Search | None:
    match plan.join:
        case "echo" | "rewrite":
            return EchoSearch(plan)
        case "restart":
            return RestartSearch(plan)
        case "prefill":
            return PrefillSearch(plan)
        case "fresh":
            return RestartSearch(plan) if plan.left_behind else None
