"""Decides, character by character, where the new writer's text joins the answer.

Every decision depends on the text alone, never on how it came in pieces.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from spillover.cloud_fallback.seam.continuation import Continuation
from spillover.cloud_fallback.seam.echo import (
    CONTEXT_UNITS,
    LEAST_UNITS,
    RESTART_UNITS,
    SURE_UNITS,
    Match,
    Track,
    is_unique_end,
    split_units,
)
from spillover.cloud_fallback.seam.folding import fold, raw_length, raw_length_from_end
from spillover.cloud_fallback.seam.graphemes import boundary_before
from spillover.cloud_fallback.seam.markup import FENCE, last_line
from spillover.cloud_fallback.seam.preamble import (
    MAX_CHARS,
    TERMINATORS,
    opens_preamble,
    preamble_length,
)
from spillover.cloud_fallback.seam.sentences import good_boundary
from spillover.runtime.events import SeamKind

HOLD_CHARS = 240
MAX_TRACKS = 12


class Joined(Struct, frozen=True, kw_only=True):
    """The decision: what is new begins at held[start:], after *rest* (units of a character that
    was cut). *place*: the new text replaces the answer from this character of what was told on;
    None: it comes after the answer."""

    kind: SeamKind
    start: int
    rest: str = ""
    place: int | None = None
    n_repeated: int = 0
    """Units of the answer's end that were repeated before it."""
    skipped: str = ""
    """What stood before the repeated text: a preamble, an opening quote or fence."""
    starts_over: bool = False
    """The text does not follow from the answer's last words."""


class Search(Protocol):
    """Takes the text's characters until it knows how they join."""

    held: list[str]

    @property
    def is_sure(self) -> bool:
        """Whether the text so far clearly repeats the answer: no time limit ends this."""
        ...

    def feed(self, character: str) -> Joined | None: ...
    def give_up(self) -> Joined:
        """The best decision on what is there; the hold limit has come, or the text's end."""
        ...


class EchoSearch:
    """The writer was asked to repeat the anchor, or the whole answer, and to go on."""

    def __init__(self, plan: Continuation) -> None:
        self.held: list[str] = []
        self._told = plan.told
        self._units = fold(plan.told)
        self._anchor = fold(plan.anchor)
        self._can_replace = plan.can_replace
        self._n_context = len(plan.context)
        self._n_context_units = len(fold(plan.context))
        self._rewrites = plan.join == "rewrite"
        self._limit = HOLD_CHARS + len(plan.anchor)
        self._before = self._units[-len(self._anchor) - CONTEXT_UNITS :]
        self._tail = ""
        self._tracks: list[Track] = []
        self._after_terminator = False
        self._diverged: Match | None = None
        self._skips_word = False
        self._begin()

    @property
    def is_sure(self) -> bool:
        return self._diverged is not None or any(track.is_following for track in self._tracks)

    def feed(self, character: str) -> Joined | None:
        self.held.append(character)
        if self._skips_word:
            return self._skip_word()
        units = split_units(character)
        if units and self._after_terminator:
            self._begin_after_preamble()
        for unit, rest in units:
            joined = self._add(unit, rest)
            if joined:
                return joined
        self._after_terminator = self._after_terminator and not units
        self._after_terminator |= character in TERMINATORS
        if len(self.held) >= self._limit and not self._follows_far():
            return self.give_up()
        return None

    def _begin(self, *, least: int = LEAST_UNITS) -> None:
        if len(self._tracks) < MAX_TRACKS:
            likely = (0, self._n_context_units, len(self._units) - len(self._anchor))
            self._tracks += [
                Track(self._units, likely, skips_junk=skips, least=least) for skips in (False, True)
            ]

    def _begin_after_preamble(self) -> None:
        text = "".join(self.held[:-1])
        if len(text) > MAX_CHARS:
            return
        line = last_line(text.rstrip())
        if opens_preamble(text) or FENCE.fullmatch(line):
            self._begin()
        elif text.rstrip().endswith((":", "\uff1a")) and "\n" not in text.strip():
            self._begin(least=SURE_UNITS)

    def _add(self, unit: str, rest: str) -> Joined | None:
        end = len(self.held)
        self._tail = (self._tail + unit)[-len(self._before) :]
        for track in self._tracks:
            track.add(unit, end, rest)
        if self._tail.endswith(self._anchor):
            joined = self._at_anchor(end, rest)
            if joined:
                return joined
        return self._judge()

    def _at_anchor(self, end: int, rest: str) -> Joined | None:
        """The anchor is complete: an echo, unless other text than the answer's stands before."""
        n = len(self._anchor)
        whole = [
            track.longest.n_units
            for track in self._tracks
            if not track.is_dead and track.longest and track.longest.end == end
        ]
        if whole:
            n = max(n, *whole)
            return self._cut("restart" if self._is_restart(n) else "anchor", n, end, rest)
        if self._diverged is not None:
            return self._cut("restart", n, end, rest)
        if len(self._before) == n + CONTEXT_UNITS and self._tail == self._before:
            return self._cut("anchor", n, end, rest)
        if len(self.held) > self._limit + MAX_CHARS:
            return None
        text = "".join(self.held)
        n_before = len(text) - raw_length_from_end(text, n)
        return self._cut("anchor", n, end, rest) if opens_preamble(text[:n_before]) else None

    def _is_restart(self, n_units: int) -> bool:
        """Whether the last *n_units* are the whole answer, and more than was asked for."""
        begin = len(self._units) - n_units
        return n_units > len(self._anchor) and begin in (0, self._n_context_units)

    def _cut(self, kind: SeamKind, n_units: int, end: int, rest: str) -> Joined:
        text = "".join(self.held[:end])
        begin = len(text) - raw_length_from_end(text, n_units)
        return Joined(kind=kind, start=end, rest=rest, skipped=text[:begin], n_repeated=n_units)

    def _judge(self) -> Joined | None:
        """What the ends of tracks tell."""
        alive = [track for track in self._tracks if track.is_following]
        for track in [track for track in self._tracks if track.is_dead]:
            self._tracks.remove(track)
            joined = self._ended(track)
            if joined:
                return joined
        if len(alive) == 1 and len(alive[0].places) == 1:
            longest = alive[0].longest
            if longest and longest.end == len(self.held):
                return self._overlap(longest)
        return None

    def _ended(self, track: Track) -> Joined | None:
        """*track* no longer repeats the answer."""
        last = track.last
        if last is None or self._diverged is not None:
            return None
        begin = last.place - last.n_units
        if last.n_units >= RESTART_UNITS or (self._rewrites and begin == 0):
            return self._diverge(last)
        if track.longest:
            joined = self._overlap(track.longest)
            if joined:
                return joined
        n_anchor = len(self._anchor)
        if begin == len(self._units) - n_anchor and last.n_units >= max(SURE_UNITS, 0.6 * n_anchor):
            return self._misquote(last)
        return None

    def _overlap(self, match: Match) -> Joined | None:
        """The end of the answer was repeated, but not from the anchor on: is it one?"""
        n = match.n_units
        if not is_unique_end(self._units, n) or not self._begins_a_word(n):
            return None
        return self._cut("overlap", n, match.end, match.rest)

    def _begins_a_word(self, n_units: int) -> bool:
        """Whether the last *n_units* of the answer begin a word: nobody repeats half a one."""
        begin = len(self._told) - raw_length_from_end(self._told, n_units)
        before = self._told[max(0, begin - 1) : begin]
        return not before.isalnum() or before.lower() == before.upper()

    def _diverge(self, match: Match) -> Joined | None:
        """The writer repeats the answer in its own way from some place on."""
        joined = self._replaced("restart", match)
        if joined is None:
            self._diverged = match
            left = len(self._told) - raw_length(self._told, match.place)
            self._limit = len(self.held) + left + left // 2 + HOLD_CHARS
        return joined

    def _misquote(self, match: Match) -> Joined | None:
        """The anchor was repeated, but for its last letters."""
        joined = self._replaced("anchor", match)
        if joined:
            return joined
        left = self._told[raw_length(self._told, match.place) :]
        if any(map(str.isspace, left)):
            text = "".join(self.held)
            start = match.end
            while start and not text[start - 1].isspace():
                start -= 1
            return Joined(kind="unverified", start=start)
        # The word stands as it was sent; what comes after the writer's version of it is new.
        self._skips_word = True
        return self._skip_word()

    def _skip_word(self) -> Joined | None:
        if self.held[-1].isspace():
            return Joined(kind="unverified", start=len(self.held) - 1)
        return None

    def _replaced(self, kind: SeamKind, match: Match) -> Joined | None:
        place = boundary_before(self._told, raw_length(self._told, match.place))
        if not self._can_replace or place < self._n_context:
            return None
        return Joined(kind=kind, start=match.end, rest=match.rest, place=place)

    def _follows_far(self) -> bool:
        return any(track.is_following and track.n_units >= RESTART_UNITS for track in self._tracks)

    def give_up(self) -> Joined:
        text = "".join(self.held)
        if self._diverged is not None:
            start = good_boundary(text, self._diverged.end)
            return Joined(kind="unverified", start=start, starts_over=True)
        return Joined(kind="unverified", start=preamble_length(text))


class RestartSearch:
    """The writer begins the answer anew; the little that was said may be its beginning."""

    def __init__(self, plan: Continuation) -> None:
        self.held: list[str] = []
        self._units = fold(plan.told)
        self._can_replace = plan.can_replace
        self._n_context = len(plan.context)
        self._n = 0

    is_sure = False

    def feed(self, character: str) -> Joined | None:
        self.held.append(character)
        for unit, rest in split_units(character):
            if self._n < len(self._units) and unit != self._units[self._n]:
                return self.give_up()
            self._n += 1
            if self._n >= len(self._units):
                return Joined(kind="restart", start=len(self.held), rest=rest)
        return None

    def give_up(self) -> Joined:
        if self._can_replace:
            return Joined(kind="restart", start=0, place=self._n_context)
        return Joined(kind="unverified", start=0, starts_over=True)


class PrefillSearch:
    """The writer goes on with its own turn. Some servers repeat it first, or begin anew."""

    def __init__(self, plan: Continuation) -> None:
        self.held: list[str] = []
        self._units = fold(plan.told)
        self._n = 0

    is_sure = False

    def feed(self, character: str) -> Joined | None:
        self.held.append(character)
        for unit, rest in split_units(character):
            if self._n == 0 and not is_unique_start(self._units):
                return self.give_up()
            if unit != self._units[self._n]:
                return self.give_up()
            self._n += 1
            if self._n == len(self._units):
                is_echo = self._n >= RESTART_UNITS
                start = len(self.held) if is_echo else 0
                return Joined(kind="prefill", start=start, rest=rest if is_echo else "")
        return None

    def give_up(self) -> Joined:
        return Joined(kind="prefill", start=0)


def is_unique_start(units: str) -> bool:
    """Whether the first units of *units* do not come again in it."""
    return units.find(units[:RESTART_UNITS], 1) < 0
