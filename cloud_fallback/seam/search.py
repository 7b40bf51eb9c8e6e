"""Decides, character by character, where the new writer's text joins the answer.

Every decision depends on the text alone, never on how it came in pieces.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from spillover.cloud_fallback.errors import SeamFailed
from spillover.cloud_fallback.events import SeamKind
from spillover.cloud_fallback.seam.continuation import Continuation
from spillover.cloud_fallback.seam.echo import split_units
from spillover.cloud_fallback.seam.folding import fold

PREFILL_ECHO_UNITS = 64
"""A prefilled writer that repeats so much of its own turn did not continue it."""

REFRAIN_UNITS = 24
"""Unless its turn holds so much of its beginning twice."""


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
    lead: str | None = None
    """White space that sets the new text apart from the answer, whose last words it does not
    take up; None: it does."""


class Search(Protocol):
    """Takes the text's characters until it knows how they join."""

    @property
    def held(self) -> list[str]: ...
    @property
    def is_sure(self) -> bool:
        """Whether waiting has its reason in the text: no time limit ends it."""
        ...

    def feed(self, character: str) -> Joined | None: ...
    def give_up(self) -> Joined:
        """The best decision on what is there: the hold limit has come. Raises SeamFailed where
        the answer's form allows none."""
        ...

    def finish(self) -> Joined:
        """The decision on a text that is complete."""
        ...


class RestartSearch:
    """The writer begins the answer anew; the little that was said may be its beginning."""

    def __init__(self, plan: Continuation) -> None:
        self.held: list[str] = []
        self._units = fold(plan.told)
        self._place = len(plan.context) if plan.can_replace else None
        self._has_response_format = plan.request.response_format is not None
        self._n = 0

    @property
    def is_sure(self) -> bool:
        return self._n > 0

    def feed(self, character: str) -> Joined | None:
        self.held.append(character)
        for unit, rest in split_units(character):
            if self._n < len(self._units) and unit != self._units[self._n]:
                return self.give_up()
            self._n += 1
            if self._n >= len(self._units):
                if not self._units:
                    return self.finish()
                return Joined(kind="restart", start=len(self.held), rest=rest)
        return None

    def give_up(self) -> Joined:
        if self._place is not None:
            return Joined(kind="restart", start=0, place=self._place)
        if self._has_response_format:
            raise SeamFailed("the new text begins otherwise than what was sent of the answer")
        return Joined(kind="unverified", start=0, lead="\n\n")

    def finish(self) -> Joined:
        """All of it repeats the beginning of what was said, unless that was nothing."""
        return Joined(kind="restart", start=len(self.held) if self._units else 0)


class PrefillSearch:
    """The writer goes on with its own turn. Some servers repeat it first, or begin anew."""

    is_sure = False

    def __init__(self, plan: Continuation) -> None:
        self.held: list[str] = []
        units = fold(plan.told)
        begins_once = units.find(units[:REFRAIN_UNITS], 1) < 0
        self._units = units if begins_once and len(units) >= PREFILL_ECHO_UNITS else ""
        self._n = 0

    def feed(self, character: str) -> Joined | None:
        self.held.append(character)
        for unit, rest in split_units(character):
            if not self._units or unit != self._units[self._n]:
                return self.give_up()
            self._n += 1
            if self._n == len(self._units):
                return Joined(kind="prefill", start=len(self.held), rest=rest)
        return None

    def give_up(self) -> Joined:
        return Joined(kind="prefill", start=0)

    def finish(self) -> Joined:
        return Joined(kind="prefill", start=len(self.held) if self._n >= PREFILL_ECHO_UNITS else 0)
