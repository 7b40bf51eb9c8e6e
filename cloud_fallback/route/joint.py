"""Joins one writer's text to the answer so far: seam, length limit, stop strings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from spillover.cloud_fallback.events import Replace, Seam, StreamEvent
from spillover.cloud_fallback.seam.answer_text import AnswerText, Piece
from spillover.cloud_fallback.seam.continuation import Continuation
from spillover.cloud_fallback.seam.limits import VisibleLimit
from spillover.cloud_fallback.seam.machine import SeamMachine
from spillover.runtime.events import Delta


class Joint:
    """Turns the text of a new writer into events for the client, at constant cost per piece of text
    once the seam is settled.

    *text*: the answer so far, including what was withheld from the client. *tokens_left*: what
    remains of max_tokens, for a writer that was given room for more. *announces*: it is another
    writer, so the Seam event comes before its first text.
    """

    def __init__(
        self,
        plan: Continuation,
        text: AnswerText,
        *,
        seq: int,
        tokens_left: int | None,
        triggered_at: float,
        clock: Callable[[], float],
        announces: bool = True,
    ) -> None:
        self._machine = SeamMachine(plan)
        self._join = plan.join
        self._limit = VisibleLimit(tokens_left)
        self._text = text
        self._seq = seq
        self._triggered_at = triggered_at
        self._clock = clock
        self._is_announced = not announces
        self.n_chars = 0
        """Characters that this writer has added to the answer."""

    @property
    def stopped(self) -> str | None:
        """The stop string that ended the answer."""
        return self._text.stopped

    @property
    def ignored_prefill(self) -> bool:
        """Whether a writer that was to continue its own turn has started it over."""
        return self._join == "prefill" and self._machine.settled == "restart"

    @property
    def is_over(self) -> bool:
        """Whether the answer has ended at a stop string or at its length, so that no more text
        belongs to it."""
        return self._text.stopped is not None or self._limit.is_over

    @property
    def deadline(self) -> float | None:
        """Clock time at which held text is sent as it is."""
        return self._machine.hold_deadline()

    def feed(self, text: str) -> list[StreamEvent]:
        return self._events(self._machine.feed(text, self._clock()))

    def on_deadline(self) -> list[StreamEvent]:
        return self._events(self._machine.on_deadline(self._clock()))

    def release(self) -> list[StreamEvent]:
        """The events for text held in doubt, when something else than text comes after it."""
        return self._events(self._machine.on_deadline(math.inf))

    def end(self) -> list[StreamEvent]:
        """The events for text that is still held when the answer is complete."""
        events = [] if self.is_over else self._events(self._machine.end())
        return [*events, *self._shown(self._text.flush())]

    def _events(self, pieces: Iterable[Piece]) -> list[StreamEvent]:
        events: list[StreamEvent] = []
        for piece in pieces:
            if not isinstance(piece, Replace):
                piece = self._limit.feed(piece)
            events += self._shown(self._text.feed(piece))
        return events

    def _shown(self, pieces: Iterable[Piece]) -> list[StreamEvent]:
        events: list[StreamEvent] = []
        for piece in pieces:
            events += self._seam()
            if isinstance(piece, Replace):
                events.append(piece)
            else:
                self.n_chars += len(piece)
                events.append(Delta(text=piece))
        return events

    def _seam(self) -> list[StreamEvent]:
        if self._is_announced:
            return []
        self._is_announced = True
        return [
            Seam(
                seq=self._seq,
                kind=self._machine.settled or "fresh",
                trimmed_chars=self._machine.trimmed_chars,
                gap_ms=1e3 * (self._clock() - self._triggered_at),
            )
        ]
