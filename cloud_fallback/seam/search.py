"""Decides, character by character, where the new writer's text joins the answer.

Every decision depends on the text alone, never on how it was split into pieces.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from spillover.cloud_fallback.errors import SeamFailed
from spillover.cloud_fallback.events import SeamKind
from spillover.cloud_fallback.seam.continuation import Continuation
from spillover.cloud_fallback.seam.echo import EchoMatch
from spillover.cloud_fallback.seam.notices import is_worth_keeping
from spillover.runtime.text.folding import fold, raw_length, raw_length_from_end, split_units
from spillover.runtime.text.graphemes import boundary_before
from spillover.runtime.text.sentences import good_boundary


class Joined(Struct, frozen=True, kw_only=True):
    """The decision: held[start:] is new, after *rest* (units of a character that was cut).
    *place*: the new text replaces the answer from this character of what the writer was shown;
    None: it comes after the answer."""

    kind: SeamKind
    start: int
    rest: str = ""
    place: int | None = None
    n_repeated: int = 0
    """Units of the answer's end that were repeated before it."""
    skipped: str = ""
    """The text before the repeated text: a preamble, an opening quote or fence."""
    lead: str | None = None
    """White space that sets the new text apart from an answer it does not continue; None: it
    continues the answer."""


class Search(Protocol):
    """Takes characters until it knows how the text joins."""

    @property
    def held(self) -> list[str]: ...
    @property
    def is_sure(self) -> bool:
        """Whether the text itself is a reason to wait, so that no time limit ends the wait."""
        ...

    def feed(self, character: str) -> Joined | None: ...
    def give_up(self) -> Joined:
        """The best decision on the text so far, at the hold limit. Raises SeamFailed where the
        response format allows none."""
        ...

    def finish(self) -> Joined:
        """The decision on a complete text."""
        ...


def replaced(plan: Continuation, held: list[str], match: EchoMatch) -> Joined | None:
    """The join that takes back what the writer worded differently after *match*, a repetition from
    the beginning; None if that is not allowed."""
    shown = plan.shown
    place = boundary_before(shown, raw_length(shown, match.place))
    if match.rest and place:
        place = boundary_before(shown, place - 1)
    if not plan.can_replace or place < len(plan.context):
        return None
    n_back = match.place - len(fold(shown[:place]))
    text = "".join(held[: match.end])
    start = len(text) - raw_length_from_end(text, n_back + len(match.rest))
    return Joined(kind="restart", start=start, place=place)


def set_apart(held: list[str], match: EchoMatch) -> Joined:
    """The same for a client that keeps what it has: from the last whole sentence on."""
    start = good_boundary("".join(held), match.end)
    return Joined(kind="unverified", start=start, lead="\n\n")


class FirstWord:
    """The writer begins the answer. Less than another writer could continue is not shown yet: if
    this one breaks off, the other begins anew."""

    is_sure = False

    def __init__(self, plan: Continuation) -> None:
        self.held: list[str] = []
        self._kind: SeamKind = "restart" if plan.takes_back else "fresh"

    def feed(self, character: str) -> Joined | None:
        self.held.append(character)
        return self.give_up() if is_worth_keeping("".join(self.held)) else None

    def give_up(self) -> Joined:
        return Joined(kind=self._kind, start=0)

    finish = give_up


class RestartSearch:
    """The writer starts the answer over, of which the client has the first few characters."""

    def __init__(self, plan: Continuation) -> None:
        self.held: list[str] = []
        self._plan = plan
        self._units = fold(plan.shown)
        self._n = 0

    @property
    def is_sure(self) -> bool:
        return self._n > 0

    def feed(self, character: str) -> Joined | None:
        self.held.append(character)
        for unit, rest in split_units(character):
            if not self._units:
                return self.finish()
            if unit != self._units[self._n]:
                return self.give_up()
            self._n += 1
            if self._n == len(self._units):
                return Joined(kind="restart", start=len(self.held), rest=rest)
        return None

    def give_up(self) -> Joined:
        plan = self._plan
        if plan.can_replace:
            return Joined(kind="restart", start=0, place=len(plan.context))
        if plan.request.response_format is not None:
            raise SeamFailed("the new text does not begin with the text that was already sent")
        return Joined(kind="unverified", start=0, lead="\n\n")

    def finish(self) -> Joined:
        """All of it repeats the beginning of the answer, unless there was nothing to repeat."""
        return Joined(kind="restart", start=len(self.held) if self._units else 0)
