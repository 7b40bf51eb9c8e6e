"""Decides, character by character, where the new writer's text joins the answer.

Every decision depends on the text alone, never on how it was split into pieces.
"""

from __future__ import annotations

from typing import Literal, Protocol

from msgspec import Struct

from spillover.cloud_fallback.errors import SeamFailed
from spillover.cloud_fallback.events import SeamKind
from spillover.cloud_fallback.seam.continuation import Continuation
from spillover.runtime.text.folding import fold, split_units

PREFILL_ECHO_UNITS = 64
"""A prefilled writer that repeats this much of its own turn did not continue it."""

REFRAIN_UNITS = 24
"""Unless this much of the turn's beginning occurs twice in it."""


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


class RepeatSearch:
    """Follows the answer from its beginning. *kind* "restart": the writer starts the answer over;
    "prefill": it continues its own turn, which some servers repeat first."""

    def __init__(self, plan: Continuation, kind: Literal["restart", "prefill"]) -> None:
        self.held: list[str] = []
        self._plan = plan
        self._kind: Literal["restart", "prefill"] = kind
        self._units = fold(plan.shown)
        self._least = 0
        self._n = 0
        if kind == "prefill":
            self._least = PREFILL_ECHO_UNITS
            is_refrain = self._units.find(self._units[:REFRAIN_UNITS], 1) >= 0
            if is_refrain or len(self._units) < PREFILL_ECHO_UNITS:
                self._units = ""

    @property
    def is_sure(self) -> bool:
        return self._kind == "restart" and self._n > 0

    def feed(self, character: str) -> Joined | None:
        self.held.append(character)
        for unit, rest in split_units(character):
            if not self._units:
                return self.finish()
            if unit != self._units[self._n]:
                return self.give_up()
            self._n += 1
            if self._n == len(self._units):
                return Joined(kind=self._kind, start=len(self.held), rest=rest)
        return None

    def give_up(self) -> Joined:
        plan = self._plan
        if self._kind == "prefill":
            return Joined(kind="prefill", start=0)
        if plan.can_replace:
            return Joined(kind="restart", start=0, place=len(plan.context))
        if plan.request.response_format is not None:
            raise SeamFailed("the new text does not begin with the text that was already sent")
        return Joined(kind="unverified", start=0, lead="\n\n")

    def finish(self) -> Joined:
        """Check that all of it repeats the beginning of the answer, unless there was nothing to
        repeat."""
        is_repeated = self._units and self._n >= self._least
        return Joined(kind=self._kind, start=len(self.held) if is_repeated else 0)
