"""Finds the anchor, an overlap or a restart in the text of a writer that was asked for an echo."""

from __future__ import annotations

from difflib import SequenceMatcher
from itertools import takewhile

from spillover.cloud_fallback.events import SeamKind
from spillover.cloud_fallback.seam.continuation import Continuation
from spillover.cloud_fallback.seam.echo import (
    LEAST_UNITS,
    SEED_UNITS,
    EchoMatch,
    ShownAnswer,
    Track,
    is_junk,
    is_periodic,
)
from spillover.cloud_fallback.seam.preamble import (
    MAX_PREAMBLE_CHARS,
    TERMINATORS,
    is_preamble,
    may_be_talk,
    talk_length,
)
from spillover.cloud_fallback.seam.search import Joined, replaced, set_apart
from spillover.runtime.text.folding import (
    fold,
    raw_length,
    raw_length_from_end,
    split_units,
)
from spillover.runtime.text.markdown import FENCE, last_line

HOLD_CHARS = 240
"""Beyond this, and the anchor's own length, text without the anchor is shown unchanged."""

SURE_UNITS = 24
"""A repetition this long is followed to its end, however long that takes."""

RESTART_UNITS = 64
"""Repeating this much of the answer's beginning is a restart, which is followed to its end."""

MISQUOTED_SHARE = 0.6
ALIKE = 0.85
MAX_TRACKS = 12


class EchoSearch:
    """The writer was asked to repeat the anchor, or (*rewrites*) the whole answer, and to continue.

    Several tracks follow the text, one from each place where the repetition may begin: at the top,
    after an opening quote or fence, after each sentence of a preamble.
    """

    def __init__(self, plan: Continuation, *, rewrites: bool = False) -> None:
        self.held: list[str] = []
        self._plan = plan
        self._shown = ShownAnswer(plan.shown)
        self._units = self._shown.units
        self._anchor = fold(plan.anchor)
        self._anchor_begin = len(self._units) - len(self._anchor)
        self._tops = (0, len(fold(plan.context)))
        self._rewrites = rewrites
        self._restart_units = SURE_UNITS if rewrites else RESTART_UNITS
        self._limit = HOLD_CHARS + len(plan.anchor)
        self._tail = ""
        self._tracks: list[Track] = []
        self._overlaps: list[EchoMatch] = []
        self._after_terminator = False
        self._diverged: EchoMatch | None = None
        self._misspelt: EchoMatch | None = None
        self._begin_track(LEAST_UNITS)

    @property
    def is_sure(self) -> bool:
        is_far = self._diverged is not None or self._follows_far()
        is_likely = any(track.is_likely for track in self._tracks)
        return is_far or is_likely or may_be_talk("".join(self.held))

    def feed(self, character: str) -> Joined | None:
        self.held.append(character)
        if self._misspelt:
            return self._word_ended()
        units = split_units(character)
        if units and self._after_terminator:
            self._begin_after_preamble()
        for unit, rest in units:
            if joined := self._add(unit, rest):
                return joined
        self._after_terminator = character in TERMINATORS or (self._after_terminator and not units)
        if len(self.held) >= self._limit and not self._follows_far():
            return self.give_up()
        return None

    def give_up(self) -> Joined:
        if self._misspelt and (joined := self._word_ended(is_whole=True)):
            return joined
        if self._diverged is not None:
            return set_apart(self.held, self._diverged)
        return Joined(kind="unverified", start=talk_length("".join(self.held)))

    def finish(self) -> Joined:
        if self._diverged is None and not self._misspelt:
            for track in self._tracks:
                match = track.longest
                is_last = match and not fold("".join(self.held[match.end :]))
                if match and is_last and match.is_exact and self._is_distinctive(match.n_units):
                    return self._cut("overlap", match)
            if any(track.is_likely for track in self._tracks):
                # It ended within the repetition.
                return Joined(kind="unverified", start=len(self.held))
        return self.give_up()

    def _begin_track(self, least: int) -> None:
        if len(self._tracks) < MAX_TRACKS:
            likely = (*self._tops, self._anchor_begin)
            self._tracks.append(Track(self._shown, likely, least=least, is_strict=self._rewrites))

    def _begin_after_preamble(self) -> None:
        if len(self.held) > MAX_PREAMBLE_CHARS:
            return
        text = "".join(self.held[:-1]).rstrip()
        is_line = text.endswith((":", "\uff1a")) and "\n" not in text.lstrip()
        if is_preamble(text) or FENCE.fullmatch(last_line(text)):
            self._begin_track(LEAST_UNITS)
        elif is_line and len(self._anchor) >= SURE_UNITS and not self._rewrites:
            # If the whole anchor comes next, this was a preamble in an unknown language.
            self._begin_track(len(self._anchor))

    def _add(self, unit: str, rest: str) -> Joined | None:
        end = len(self.held)
        self._tail = (self._tail + unit)[-len(self._anchor) :]
        reached: list[EchoMatch] = []
        for track in self._tracks:
            was = track.longest
            track.add(unit, end, rest)
            if track.longest is not None and track.longest is not was:
                reached.append(track.longest)
        if self._tail == self._anchor:
            if joined := self._at_anchor(end, rest):
                return joined
        elif whole := [match for match in reached if match.begin <= self._anchor_begin]:
            return self._cut("anchor", whole[0])
        dead = [track for track in self._tracks if track.is_dead]
        if dead:
            self._tracks = [track for track in self._tracks if not track.is_dead]
        for track in dead:
            if joined := self._left(track):
                return joined
        return self._overlap() if self._overlaps else None

    def _at_anchor(self, end: int, rest: str) -> Joined | None:
        """The anchor is complete: an echo, unless foreign text precedes it, or a longer repetition
        that also contains the anchor still continues."""
        n = n_anchor = len(self._anchor)
        whole = [
            track.longest.n_units
            for track in self._tracks
            if track.n_matched >= SEED_UNITS and track.longest and track.longest.end == end
        ]
        if whole and not is_junk(self._units[len(self._units) - max(whole) : self._anchor_begin]):
            n = max(n, *whole)
        place = len(self._units)
        match = EchoMatch(
            begin=place - n, place=place, n_units=n, end=end, rest=rest, is_exact=True
        )
        if whole or self._diverged is not None:
            is_restart = self._diverged or (n > n_anchor and match.begin in self._tops)
            return self._cut("restart" if is_restart else "anchor", match)
        if len(self.held) > self._limit or any(track.n_matched >= n for track in self._tracks):
            return None
        joined = self._cut("anchor", match)
        return joined if self._leads_to_echo(joined.skipped) else None

    def _leads_to_echo(self, before: str) -> bool:
        """Whether *before* may precede the anchor: a preamble, or roughly the answer's words from
        further back."""
        units = fold(before)
        if is_junk(units) or is_preamble(before):
            return True
        own = self._units[max(0, self._anchor_begin - len(units)) : self._anchor_begin]
        return SequenceMatcher(None, units, own, autojunk=False).ratio() >= ALIKE

    def _cut(self, kind: SeamKind, match: EchoMatch) -> Joined:
        """The join after a repetition that reached the end of the answer."""
        text = "".join(self.held[: match.end])
        begin = len(text) - raw_length_from_end(text, match.n_units)
        return Joined(
            kind=kind,
            start=match.end,
            rest=match.rest,
            skipped=text[:begin],
            n_repeated=match.place - match.begin,
        )

    def _left(self, track: Track) -> Joined | None:
        """*track* no longer repeats the answer."""
        last = track.last
        if last is None or self._diverged is not None:
            return None
        longest = track.longest
        if longest and longest.is_exact and self._is_distinctive(longest.n_units):
            self._overlaps.append(longest)
        n_repeated = last.place - last.begin
        if any(other.n_matched >= n_repeated for other in self._tracks):
            return None
        least = max(
            SEED_UNITS if self._is_last_word(last) else SURE_UNITS,
            MISQUOTED_SHARE * len(self._anchor),
        )
        is_restart = last.begin in self._tops and n_repeated >= self._restart_units
        is_misquoted = last.begin <= self._anchor_begin <= last.place - least
        if is_misquoted and not (is_restart and self._plan.can_replace):
            return self._misquoted(last)
        return self._diverge(last) if is_restart else None

    def _overlap(self) -> Joined | None:
        """The end of the answer was repeated, though not from the anchor on: the join, unless a
        longer repetition still continues, or the same text comes again, as in a refrain."""
        for match in tuple(self._overlaps):
            again = self._units[len(self._units) - match.n_units :]
            after = match.rest + fold("".join(self.held[match.end :]))
            if after.startswith(again):
                self._overlaps.remove(match)
            elif not again.startswith(after) and not any(
                track.n_matched > match.n_units for track in self._tracks
            ):
                return self._cut("overlap", match)
        return None

    def _is_distinctive(self, n_units: int) -> bool:
        """Whether the last *n_units* of the answer occur only there, do not repeat themselves,
        and begin with a word: writers do not repeat half a word."""
        begin = len(self._units) - n_units
        again = self._units[begin:]
        if self._units.find(again) != begin or is_periodic(again):
            return False
        shown = self._plan.shown
        start = len(shown) - raw_length_from_end(shown, n_units)
        before = shown[max(0, start - 1) : start]
        # Most scripts without capitals do not separate words.
        return not before.isalnum() or before.lower() == before.upper()

    def _diverge(self, match: EchoMatch) -> Joined | None:
        """The writer repeats the answer in its own words from some place on."""
        joined = replaced(self._plan, self.held, match)
        if joined is None:
            self._diverged = match
            left = len(self._plan.shown) - raw_length(self._plan.shown, match.place)
            self._limit = len(self.held) + left + left // 2 + HOLD_CHARS
        return joined

    def _misquoted(self, match: EchoMatch) -> Joined | None:
        """The anchor was repeated, except for its last letters."""
        if self._is_last_word(match):
            self._misspelt = match
            return self._word_ended()
        text = "".join(self.held[: match.end])
        start = len(text) - len(text.split()[-1]) if not text[-1].isspace() else len(text)
        return Joined(kind="unverified", start=start, lead=" ")

    def _is_last_word(self, match: EchoMatch) -> bool:
        left = self._plan.shown[raw_length(self._plan.shown, match.place) :]
        return not any(map(str.isspace, left.strip()))

    def _word_ended(self, *, is_whole: bool = False) -> Joined | None:
        """The join after the writer's version of the answer's last word, which stays as it was
        sent. Where the writer's word is longer, the answer was cut in it: then nothing is
        dropped."""
        match = self._misspelt
        assert match is not None
        more = "".join(self.held[match.end :])
        word = "".join(takewhile(lambda character: not character.isspace(), more))
        n_left = len(self._units) - match.place
        is_longer = len(fold(word)) > n_left + 1
        if len(word) == len(more) and not (is_longer or is_whole):
            return None
        start = match.end + (0 if is_longer else len(word))
        return Joined(kind="unverified", start=start, n_repeated=len(self._anchor))

    def _follows_far(self) -> bool:
        return any(track.n_matched >= SURE_UNITS for track in self._tracks)
