"""Follows a text along the answer that it may repeat."""

from __future__ import annotations

from msgspec import Struct

SEED_UNITS = 8
"""A match of this many consecutive units is worth following."""

LEAST_UNITS = 8
"""The shortest overlap that counts."""

MAX_JUNK_UNITS = 8
MAX_PLACES = 64
_JUNK = frozenset("'\".`>*_-[⟦<|#")


class EchoMatch(Struct, frozen=True, kw_only=True):
    """The held text repeats *n_units* units of the answer up to the unit *place*. held[end:] comes
    next, after *rest*: the units of its last character beyond the repetition."""

    place: int
    n_units: int
    end: int
    rest: str

    @property
    def begin(self) -> int:
        """The first unit of the answer that is repeated."""
        return self.place - self.n_units


class Track:
    """One position in the held text where the repetition may begin.

    *likely* places of the answer are always tried, others only while there are few. The end
    of the answer counts once *least* units are repeated.
    """

    def __init__(
        self, units: str, likely: tuple[int, ...], *, skips_junk: bool, least: int
    ) -> None:
        self._units = units
        self._likely = likely
        self._skips_junk = skips_junk
        self._least = least
        self._seed = ""
        self._n_junk = 0
        self._places: list[int] = []
        self.n_units = 0
        self.is_dead = False
        self.longest: EchoMatch | None = None
        """The last repetition that reached the end of the answer."""
        self.last: EchoMatch | None = None
        """The repetition before it diverged from the answer."""

    @property
    def is_following(self) -> bool:
        return not self.is_dead and self.n_units >= SEED_UNITS

    @property
    def is_likely(self) -> bool:
        """Whether it follows the answer from a place where a repetition should begin."""
        return self.is_following and not set(self._likely).isdisjoint(self._places)

    def add(self, unit: str, end: int, rest: str) -> None:
        """Take the next unit of the held text."""
        if self.is_dead or self._drops(unit):
            return
        self.n_units += 1
        n, units = self.n_units, self._units
        if n < SEED_UNITS:
            self._seed += unit
            return
        if n == SEED_UNITS:
            self._places = _places(units, self._seed + unit, self._likely)
        else:
            last = len(units) - n
            self._places = [at for at in self._places if at <= last and units[at + n - 1] == unit]
        self.is_dead = not self._places
        if not self.is_dead:
            self.last = EchoMatch(place=self._places[0] + n, n_units=n, end=end, rest=rest)
            if self._places[-1] + n == len(units) and n >= self._least:
                self.longest = EchoMatch(place=len(units), n_units=n, end=end, rest=rest)

    def _drops(self, unit: str) -> bool:
        if not self._skips_junk:
            return False
        if unit in _JUNK:
            self._n_junk += 1
            self.is_dead = self._n_junk > MAX_JUNK_UNITS
            return True
        self._skips_junk = False
        # Without junk this track equals the one next to it.
        self.is_dead = self._n_junk == 0
        return self.is_dead


def _places(units: str, seed: str, likely: tuple[int, ...]) -> list[int]:
    """Where *seed* occurs: at the *likely* places, and its last occurrences elsewhere."""
    places = {place for place in likely if units.startswith(seed, place)}
    at = units.rfind(seed)
    while at >= 0 and len(places) < MAX_PLACES:
        places.add(at)
        at = units.rfind(seed, 0, at + len(seed) - 1)
    return sorted(places)


def is_junk(units: str) -> bool:
    """Whether *units* are a few marks that may precede a quotation."""
    return len(units) <= MAX_JUNK_UNITS and _JUNK.issuperset(units)


def is_periodic(units: str) -> bool:
    """Whether *units* repeat the same units one and a half times or more."""
    return any(units[n:] == units[:-n] for n in range(1, 2 * len(units) // 3 + 1))
