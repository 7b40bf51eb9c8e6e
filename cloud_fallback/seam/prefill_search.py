"""Finds out whether a writer continues its own turn, or starts it over."""

from __future__ import annotations

from spillover.cloud_fallback.seam.continuation import Continuation
from spillover.cloud_fallback.seam.echo import SEED_UNITS, ShownAnswer, Track, is_periodic
from spillover.cloud_fallback.seam.preamble import (
    LONGEST_WORD_CHARS,
    may_be_talk,
    opens_preamble,
    talk_length,
)
from spillover.cloud_fallback.seam.search import Joined, replaced, set_apart
from spillover.runtime.text.folding import fold, split_units

RESTART_UNITS = 64
"""Repeating this much of the answer's beginning is a restart, whatever follows. In the middle of a
sentence, where no text begins like an answer, SEED_UNITS are enough."""

REFRAIN_UNITS = 24
"""Unless this much of the turn's beginning occurs twice in it."""


class PrefillSearch:
    """The writer was to continue its own turn. Servers that do not know how answer anew, some after
    a few words about the interruption; others repeat the turn first.

    Text is only held while it repeats the beginning of the turn, or may be such words.
    """

    def __init__(self, plan: Continuation) -> None:
        self.held: list[str] = []
        self._plan = plan
        self._shown = ShownAnswer("" if plan.is_local else plan.shown)
        units = self._shown.units
        is_refrain = units.find(units[:REFRAIN_UNITS], 1) >= 0 or is_periodic(units)
        self._is_open = plan.pending.strip(" ") == "" and units[-1:].isalnum()
        self._is_far = len(units) >= SEED_UNITS and not is_refrain
        self._is_word = self._is_open and SEED_UNITS > len(units) > 1 and not is_refrain
        self._n_talk = 0
        self._track = self._begin()

    @property
    def is_sure(self) -> bool:
        return self._track.is_likely

    def feed(self, character: str) -> Joined | None:
        self.held.append(character)
        if not self._is_far:
            return self._of_short_turn("".join(self.held))
        joined = self._follow(character, len(self.held))
        if joined is None or self._n_talk or joined.kind != "prefill":
            return joined
        text = "".join(self.held)
        if _may_be_preamble(text):
            return None
        self._n_talk = talk_length(text)
        return self._again() if self._n_talk else joined

    def _begin(self) -> Track:
        tops = (0, len(fold(self._plan.context)))
        return Track(self._shown, tops, least=SEED_UNITS, n_clean=SEED_UNITS, finds_others=False)

    def _of_short_turn(self, text: str) -> Joined | None:
        """A word or two must be repeated as they are."""
        shown = self._plan.shown
        if not (self._is_word and shown.startswith(text)):
            return self.give_up()
        return Joined(kind="restart", start=len(text)) if text == shown else None

    def _again(self) -> Joined | None:
        """Read on after the talk."""
        self._track = self._begin()
        for index in range(self._n_talk, len(self.held)):
            if joined := self._follow(self.held[index], index + 1):
                return joined
        return None

    def _follow(self, character: str, end: int) -> Joined | None:
        for unit, rest in split_units(character):
            self._track.add(unit, end, rest)
            if match := self._track.longest:
                n = match.place - match.begin
                return Joined(kind="restart", start=match.end, rest=match.rest, n_repeated=n)
            if self._track.is_dead:
                return self._left()
        return None

    def _left(self) -> Joined:
        """The text is not, or no longer, a repetition."""
        match = self._track.last
        begins = "".join(self.held[self._n_talk :]).startswith(self._plan.shown[:SEED_UNITS])
        least = SEED_UNITS if self._is_open and begins else RESTART_UNITS
        if match is None or match.place - match.begin < least:
            return Joined(kind="prefill", start=self._n_talk)
        return replaced(self._plan, self.held, match) or set_apart(self.held, match)

    def give_up(self) -> Joined:
        return Joined(kind="prefill", start=self._n_talk)

    def finish(self) -> Joined:
        if self._track.is_likely:
            # It ended within the repetition.
            return Joined(kind="prefill", start=len(self.held))
        return self.give_up()


def _may_be_preamble(text: str) -> bool:
    """Whether *text* may be a beginning of talk about the interruption. What continues a sentence
    begins with a blank or a small letter."""
    if text[0].isspace() or text[0].islower():
        return False
    if opens_preamble(text):
        return may_be_talk(text)
    return len(text) < (LONGEST_WORD_CHARS if text.isalpha() and text[0].isupper() else SEED_UNITS)
