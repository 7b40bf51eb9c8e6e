"""Joins the text of a new writer to the answer as it arrives."""

from __future__ import annotations

from spillover.cloud_fallback.events import Replace, SeamKind
from spillover.cloud_fallback.seam.answer_text import Piece
from spillover.cloud_fallback.seam.continuation import Continuation
from spillover.cloud_fallback.seam.echo_search import EchoSearch
from spillover.cloud_fallback.seam.format_search import FormatSearch
from spillover.cloud_fallback.seam.prefill_search import PrefillSearch
from spillover.cloud_fallback.seam.repair import repaired
from spillover.cloud_fallback.seam.search import FirstWord, Joined, RestartSearch, Search
from spillover.cloud_fallback.seam.stages import (
    JsonEnd,
    JsonStart,
    SetApart,
    Splice,
    Stage,
    Unwrapped,
    closing_quote,
)
from spillover.runtime.text.folding import raw_length_from_end
from spillover.runtime.text.markdown import open_fence

HOLD_S = 1.5
"""Text that neither repeats the answer nor clearly begins it is shown after this time."""


class SeamMachine:
    """Takes the new writer's text and returns what the client may see.

    Text is held back only until it is known how it joins; after that it passes through. Pure:
    the caller passes the time in, in seconds of any clock, and calls on_deadline() when
    hold_deadline() has passed without text.
    """

    def __init__(self, plan: Continuation) -> None:
        self._plan = plan
        self._search: Search | None = _search_for(plan)
        is_new_document = plan.is_json and plan.join in ("fresh", "restart")
        self._lead: Stage | None = JsonStart() if is_new_document else None
        self._stages: list[Stage] = []
        self._deadline: float | None = None
        self._n_taken = 0
        self._n_given = 0
        self.settled: SeamKind | None = None
        """How the texts were joined; None while that is not known."""
        if self._search is None:
            self.settled = "restart" if plan.takes_back else "fresh"
            self._stages = [JsonEnd()] if plan.is_json else []

    @property
    def trimmed_chars(self) -> int:
        """Characters of the new writer's text that were dropped so far."""
        return max(0, self._n_taken - self._n_given)

    def hold_deadline(self) -> float | None:
        """When held text must be shown; None: nothing is held, or it has no time limit."""
        is_sure = self._search is None or self._search.is_sure
        return None if is_sure else self._deadline

    def feed(self, text: str, now: float) -> list[Piece]:
        """What the client may see after *text*, which came at *now*."""
        if self._search is None and not self._stages:
            return [text] if text else []
        self._n_taken += len(text)
        if self._lead is not None:
            text = self._lead.feed(text)
        if self._deadline is None and text:
            self._deadline = now + HOLD_S
        return self._take(text) or self.on_deadline(now)

    def on_deadline(self, now: float) -> list[Piece]:
        """What must be shown at *now*, if the time to hold it has passed."""
        deadline = self.hold_deadline()
        if deadline is None or now < deadline or self._search is None:
            return []
        return self._settle(self._search.give_up(), "")

    def end(self) -> list[Piece]:
        """The rest, when the new writer's text is complete."""
        pieces = self._take(self._lead.flush()) if self._lead is not None else []
        if self._search is not None:
            pieces += self._settle(self._search.finish(), "")
        text = ""
        for stage in self._stages:
            text = stage.feed(text) + stage.flush()
        self._stages = []
        return self._given(pieces, text)

    def _take(self, text: str) -> list[Piece]:
        if self._search is None:
            return self._given([], self._pass(text))
        for index, character in enumerate(text):
            joined = self._search.feed(character)
            if joined:
                return self._settle(joined, text[index + 1 :])
        return []

    def _settle(self, joined: Joined, more: str) -> list[Piece]:
        assert self._search is not None
        plan, text = self._plan, joined.rest + "".join(self._search.held[joined.start :])
        self._search = None
        self.settled = "unverified" if plan.left_behind else joined.kind
        pieces: list[Piece] = []
        if joined.place is not None:
            pieces.append(Replace(keep_chars=joined.place - len(plan.context)))
        # All that is known is that the text comes after the answer.
        is_known = joined.n_repeated or joined.lead is not None or plan.left_behind
        if joined.kind == "unverified" and not is_known and not plan.is_json:
            # Only the held text, so that the outcome does not depend on the pieces it came in.
            half = plan.pending.strip()  # of a character, which the client has
            if half and text.lstrip().startswith(half):
                text = text.lstrip()[len(half) :]
            text = repaired(plan.context + plan.kept, text)
        self._stages = self._stages_for(joined)
        return self._given(pieces, self._pass(text + more))

    def _stages_for(self, joined: Joined) -> list[Stage]:
        plan = self._plan
        known = plan.context + plan.kept
        stages: list[Stage] = []
        if plan.left_behind:
            stages.append(SetApart(plan.left_behind, "\n\n"))
        elif joined.lead is not None:
            stages.append(SetApart(known, joined.lead))
        elif joined.place is not None:
            known = known[: joined.place]
        elif joined.kind != "unverified" or joined.n_repeated:
            begin = len(plan.shown) - raw_length_from_end(plan.shown, joined.n_repeated)
            closing = closing_quote(joined.skipped, plan.shown[:begin])
            stages.append(Splice(plan.pending, closing=closing, is_json=plan.is_json))
        if plan.is_json:
            stages.append(JsonEnd(known[len(plan.context) :]))
        elif (wrapping := open_fence(joined.skipped)) and open_fence(known) is None:
            stages.append(Unwrapped(wrapping))
        return stages

    def _pass(self, text: str) -> str:
        for stage in self._stages:
            text = stage.feed(text)
        if any(stage.is_done for stage in self._stages):
            self._stages = [stage for stage in self._stages if not stage.is_done]
        return text

    def _given(self, pieces: list[Piece], text: str) -> list[Piece]:
        if text:
            self._n_given += len(text)
            pieces.append(text)
        return pieces


def _search_for(plan: Continuation) -> Search | None:
    match plan.join:
        case "echo":
            return EchoSearch(plan)
        case "rewrite":
            return FormatSearch(plan)
        case "restart":
            return RestartSearch(plan)
        case "prefill":
            return PrefillSearch(plan)
        case "fresh":
            if plan.left_behind:
                return RestartSearch(plan)
            return None if plan.can_replace else FirstWord(plan)
