"""Follows a text along the answer that it may repeat, with a letter wrong here and there."""

from __future__ import annotations

import unicodedata
from functools import cached_property, lru_cache

from msgspec import Struct
from msgspec.structs import replace

from spillover.cloud_fallback.seam.notices import LONGEST_CHARS
from spillover.runtime.text.folding import fold, raw_length, raw_length_from_end

SEED_UNITS = 8
"""A match of this many consecutive units is worth following."""

LEAST_UNITS = 8
"""The shortest overlap that counts."""

CLEAN_UNITS = 8
"""So many units without a mistake show that the one before was no more than that."""

UNITS_PER_MISTAKE = 24
MAX_MARKS = 8
"""Marks that the writer may add or leave out in one repetition, beside one for every four units."""

MAX_PLACES = 64

PATTERN_UNITS = 16
"""A shorter repetition is no pattern."""


class EchoMatch(Struct, frozen=True, kw_only=True):
    """The last *n_units* units of held[:end] repeat the units of the answer from *begin* to
    *place*. held[end:] comes next, after *rest*: the units of its last character beyond the
    repetition."""

    begin: int
    place: int
    n_units: int
    end: int
    rest: str
    is_exact: bool


class ShownAnswer:
    """The text that the writer was shown, and its units."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.units = fold(text)

    def character(self, unit: int) -> tuple[int, int, bool]:
        """Where the units of the character begin and end that *unit* belongs to, and whether it
        stands alone as a word."""
        text = self.text
        if 2 * unit < len(self.units):
            at = raw_length(text, unit + 1) - 1
            begin = len(fold(text[:at]))
        else:
            at = len(text) - raw_length_from_end(text, len(self.units) - unit)
            begin = len(self.units) - len(fold(text[at:]))
        around = text[max(0, at - 1) : at] + text[at + 1 : at + 2]
        return begin, begin + len(fold(text[at])), not any(map(_is_letter, around))

    @cached_property
    def is_patterned(self) -> bool:
        """Whether the answer's end nearly repeats itself, as a loop or a list of like items does:
        then what comes next may look like a repetition with mistakes."""
        end = [unit for unit in self.units[-LONGEST_CHARS:] if not _is_mark(unit)][::-1]
        return any(_is_alike(end[: max(2 * n, PATTERN_UNITS)], n) for n in range(1, len(end) // 2))

    def after_marks(self, unit: int) -> int:
        """The first unit from *unit* on that is not a mark."""
        while unit < len(self.units) and _is_mark(self.units[unit]):
            unit += 1
        return unit


class _Place(Struct, frozen=True, kw_only=True):
    """One way to read the held text as a repetition of the answer."""

    begin: int
    at: int
    """The unit of the answer that should come next, after those of *via*."""
    n_matched: int = 0
    n_marks: int = 0
    """Marks that were added or left out."""
    n_lead: int = 0
    """Units of the held text before the first that matched."""
    n_mistakes: int = 0
    n_clean: int = CLEAN_UNITS
    """Units since the last mistake."""
    n_skip: int = 0
    """Units of the held text that belong to the last mistake."""
    via: str = ""

    @property
    def is_exact(self) -> bool:
        return not self.n_mistakes and self.n_marks == self.n_lead

    @property
    def is_settled(self) -> bool:
        """Whether the last mistake was no more than that."""
        return self.n_clean >= CLEAN_UNITS and not (self.via or self.n_skip)

    @property
    def may_err(self) -> bool:
        """Whether one more mistake is forgiven."""
        most = 1 + self.n_matched // UNITS_PER_MISTAKE
        return self.n_clean >= CLEAN_UNITS and self.n_mistakes < most


class Track:
    """One position in the held text where the repetition may begin.

    At the *likely* places of the answer marks may be added or left out, and a letter may be wrong
    now and then; *n_clean* units must be right before the first. Other places are found by their
    first SEED_UNITS and must be repeated exactly. The end of the answer counts once *least* units
    are repeated.
    """

    def __init__(
        self,
        shown: ShownAnswer,
        likely: tuple[int, ...],
        *,
        least: int,
        n_clean: int = 0,
        is_strict: bool = False,
        finds_others: bool = True,
    ) -> None:
        self._shown = shown
        self._units = shown.units
        self._likely = likely
        self._least = least
        self._is_strict = is_strict
        self._seed: str | None = "" if finds_others else None
        self._n_units = 0
        self._n_before = 0
        """Units of the same character before the last one."""
        self._end, self._rest = 0, ""
        self._places = [
            _Place(begin=at, at=at, n_clean=CLEAN_UNITS - n_clean) for at in sorted({*likely})
        ]
        self._others: list[int] = []
        """Where the repetitions begin that were found by their first units, of which there may be
        many; all have the length n_found."""
        self._n_found = 0
        self.longest: EchoMatch | None = None
        """The last repetition that reached the end of the answer."""
        self._doubtful: EchoMatch | None = None
        """The same with mistakes, while there may be a better reading."""
        self._is_early = False
        """Whether the last mistake was right before its end."""
        self.last: EchoMatch | None = None
        """The repetition before it diverged from the answer."""

    @property
    def is_dead(self) -> bool:
        return not self._places and not self._others and self._seed is None

    @property
    def n_matched(self) -> int:
        """Units of the answer that are repeated so far."""
        n_found = self._n_found if self._others else 0
        return max((place.n_matched for place in self._places), default=n_found)

    @property
    def is_likely(self) -> bool:
        """Whether it follows the answer from a place where a repetition should begin."""
        return any(place.n_matched >= SEED_UNITS for place in self._places)

    def add(self, unit: str, end: int, rest: str) -> None:
        """Take the next unit of the held text."""
        self._n_units += 1
        self._n_before = self._n_before + 1 if end == self._end else 0
        self._places = [p for place in self._places for p in self._after(place, unit, rest)]
        if self._others:
            units, n = self._units, self._n_found
            self._others = [at for at in self._others if units.startswith(unit, at + n)]
            self._n_found += 1
        elif self._seed is not None and (self._seed or not _is_mark(unit)):
            self._seed += unit
            if len(self._seed) == SEED_UNITS:
                self._others, self._n_found = _found(self._units, self._seed), SEED_UNITS
                self._seed = None
        self._end, self._rest = end, rest
        self._note()

    def _note(self) -> None:
        """Keep the repetition so far, and whether it has reached the end of the answer."""
        n_noted = self.last.n_units if self.last else 0
        found = [self._found_at(at) for at in (*self._others[:1], *self._others[-1:])]
        settled = [self._match(place) for place in self._places if place.is_settled]
        for match in (*settled[:1], *found[:1]):
            if match.place - match.begin > n_noted:
                self.last = match
                break
        for place in self._places:
            if place.at == len(self._units) and not (place.via or place.n_skip):
                self._reach(place, self._match(place))
        if found and found[-1].place == len(self._units) and self._n_found >= self._least:
            self._reach_exactly(found[-1])
        is_open = self._others or any(place.at < len(self._units) for place in self._places)
        if self._doubtful is not None and not is_open:
            self.longest, self._doubtful = self._doubtful, None

    def _reach_exactly(self, match: EchoMatch) -> None:
        if self.longest is None or self.longest.end < match.end:
            self.longest, self._doubtful = match, None

    def _reach(self, place: _Place, match: EchoMatch, *, is_early: bool = False) -> None:
        """*place* is the end of the answer. After mistakes there may be a better reading."""
        if match.place - match.begin < self._least or not place.n_clean:
            return
        if match.is_exact:
            self._reach_exactly(match)
        elif self._doubtful is None or self._is_early:
            self._doubtful, self._is_early = match, is_early or place.n_clean == 1

    def _match(self, place: _Place, *, n_units: int | None = None) -> EchoMatch:
        return EchoMatch(
            begin=place.begin,
            place=place.at,
            n_units=self._n_units - place.n_lead if n_units is None else n_units,
            end=self._end,
            rest=self._rest,
            is_exact=place.is_exact,
        )

    def _found_at(self, begin: int) -> EchoMatch:
        n, end, rest = self._n_found, self._end, self._rest
        return EchoMatch(begin=begin, place=begin + n, n_units=n, end=end, rest=rest, is_exact=True)

    def _after(self, place: _Place, unit: str, rest: str) -> list[_Place]:
        """*place* after the next *unit* of the held text; none where it does not fit."""
        if place.n_skip:
            return [replace(place, n_skip=place.n_skip - 1)]
        if place.via:
            fits = place.via[0] == unit
            return [replace(place, via=place.via[1:])] if fits else []
        if self._units.startswith(unit, place.at):
            return [_matched(place, place.at + 1)]
        if self._is_strict or self._shown.is_patterned:
            return []
        at = self._shown.after_marks(place.at)
        if at == len(self._units):
            # Only marks are missing: the writer has left them out, or wrote a letter too many.
            if at > place.at:
                last = replace(place, at=at, n_marks=place.n_marks + at - place.at)
                match = self._match(last, n_units=self._n_units - 1 - place.n_lead)
                self._reach(last, match, is_early=True)
            is_extra = at > place.at and place.may_err and _is_letter(unit)
            return [_with_extra(place, rest)] if is_extra else []
        if place.n_marks > MAX_MARKS + place.n_matched // 4:
            return []
        found = self._units.find(unit, place.at, at + 1)
        if found >= 0:
            n_marks = place.n_marks + found - place.at
            return [_matched(replace(place, n_marks=n_marks), found + 1)]
        if _is_mark(unit):
            is_lead = all(map(_is_mark, self._units[place.begin : place.at]))
            n_lead = place.n_lead + is_lead
            return [replace(place, n_marks=place.n_marks + 1, n_lead=n_lead)]
        return self._mistaken(place, at, unit, rest) if place.may_err else []

    def _mistaken(self, place: _Place, at: int, unit: str, rest: str) -> list[_Place]:
        """The places after a mistake in the letter at *at*: another letter stands there, one too
        many, it is missing, or it comes after the next."""
        units = self._units
        begin, end, is_alone = self._shown.character(at)
        # A letter may have several units, of which the first ones were right.
        written = units[begin:at] if at - begin == self._n_before else ""
        letter = written + unit
        wrong = replace(place, n_mistakes=place.n_mistakes + 1, n_clean=0)
        places: list[_Place] = []
        if _is_letter(unit):
            at_again = begin if written else place.at
            places.append(_with_extra(replace(place, at=at_again), rest))
        if not _is_letter(units[at]):
            return places
        if _is_letter(unit) and not is_alone:
            places.append(replace(wrong, at=end, n_skip=len(rest)))
        then = self._shown.after_marks(end)
        if units.startswith(letter, then):
            places.append(_matched(wrong, then + len(letter)))
        if units.startswith(letter + rest, end):
            via = rest + units[begin:end]
            places.append(replace(wrong, at=end + len(letter + rest), via=via))
        return places


def _is_alike(units: list[str], n: int) -> bool:
    """Whether *units* are those *n* places further on, with a wrong letter in ten at most."""
    n_wrong = 0
    for unit, other in zip(units, units[n:], strict=False):
        if unit != other:
            n_wrong += 1
            is_mistake = _is_letter(unit) and _is_letter(other)
            if not is_mistake or 10 * n_wrong > len(units) - n:
                return False
    return True


def _found(units: str, seed: str) -> list[int]:
    """Where *seed* occurs, the last places of it."""
    places: list[int] = []
    at = units.rfind(seed)
    while at >= 0 and len(places) < MAX_PLACES:
        places.append(at)
        at = units.rfind(seed, 0, at + len(seed) - 1)
    return places[::-1]


def _with_extra(place: _Place, rest: str) -> _Place:
    """*place* after a letter too many."""
    n_mistakes = place.n_mistakes + 1
    return replace(place, n_mistakes=n_mistakes, n_clean=-1, n_skip=len(rest))


def _matched(place: _Place, at: int) -> _Place:
    return replace(place, at=at, n_matched=place.n_matched + 1, n_clean=place.n_clean + 1)


@lru_cache(maxsize=4096)
def _is_mark(character: str) -> bool:
    """Whether it is punctuation or markup."""
    category = unicodedata.category(character)
    return category[0] == "P" or category in ("Sm", "Sk")


def _is_letter(character: str) -> bool:
    """Whether it is a letter, or a part of one."""
    return unicodedata.category(character)[0] in "LM"


def is_junk(units: str) -> bool:
    """Whether *units* are a few marks that may precede a quotation."""
    return len(units) <= MAX_MARKS and all(map(_is_mark, units))


def is_periodic(units: str) -> bool:
    """Whether *units* repeat the same units one and a half times or more."""
    return any(units[n:] == units[:-n] for n in range(1, 2 * len(units) // 3 + 1))
