"""Decides which proposed tokens a step checks: speculative decoding (Leviathan et al., 2023) with
drafts from the text itself, and from a small model if there is one.

A call that carries a few tokens more takes little longer than a step of one token each, because the
weights are read once. The model's own sampler chooses every token from the logits that it would
have had, so that the answer is the same; a proposed token only saves the step that would have
produced it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import TypeAlias

from msgspec import Struct, structs

from spillover.runtime.backend import N_CHECKED, DraftModel
from spillover.runtime.scheduling.drafter import Drafter
from spillover.runtime.scheduling.sequence import Sequence

MOST_STREAMS = 8
"""While more streams decode, their batch is large enough to use the processor well."""

WORTH = 1.1
"""A check must promise this many times the tokens per second of a plain step."""

MOST_SLOWDOWN = 1.5
"""A check that does nothing for some of the streams takes at most this many times a plain step."""

LEAST_RATE = 0.3
"""Drafts that are right less often are not checked."""

_SIZES = (1, 3, 7, 15)
"""Tokens of each draft that are considered: with the last token of the answer as many rows as the
libraries' kernels like."""

FIRST_PATIENCE, LAST_PATIENCE = 8, 256
"""After so many drafts that did not seem worth a check, one is checked, as another program may have
made the last one slow. The number doubles each time."""

_RETRY_SIZE = 3
PAUSE_STEPS = 64
"""Steps without drafts after the backend found no room for one."""

_UNKNOWN = [-1] * N_CHECKED

_LEARNING_RATE = 0.1
"""Of longer times. A shorter one counts at once, as other programs only add time."""


class _Offer(Struct, frozen=True):
    """A draft of a sequence, and the probability of each of its tokens."""

    sequence: Sequence
    draft: list[int]
    rate: float
    by_model: bool = False
    """The tokens are not known yet: the draft model has to be asked."""


_Taken: TypeAlias = list[tuple[_Offer, list[int]]]
"""Offers, and the tokens that are taken of each."""


class Speculation:
    """Weighs the tokens that drafts promise against what checks have cost. Belongs to the loop."""

    def __init__(
        self,
        n_ctx: int,
        has_room: Callable[[int], bool],
        max_gap_s: float,
        model: DraftModel | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """*has_room*: whether the KV cache has so many free cells. *max_gap_s*: no stream should
        wait longer for text."""
        self._n_ctx = n_ctx
        self._has_room = has_room
        self._max_gap_s = max_gap_s
        self._model = model
        self._model_step_s = 0.0
        """Seconds that the draft model takes for a token of each draft."""
        self._clock = clock
        self._costs: dict[int, dict[int, float]] = defaultdict(dict)
        """Seconds of a call, by decoding sequences and by proposed tokens beside theirs."""
        self._tried: set[tuple[int, int]] = set()
        self._n_refused, self._patience = 0, FIRST_PATIENCE
        self._n_paused = 0

    def drafts(self, decoding: list[Sequence]) -> dict[Sequence, list[int]]:
        """What to check in the next step of *decoding*; nothing where a plain step promises as
        much."""
        if self._n_paused:
            self._n_paused -= 1
            return {}
        if len(decoding) > MOST_STREAMS:
            return {}
        offers = [offer for s in decoding for offer in self._offers(s)]
        if not offers or 0 not in self._costs[len(decoding)]:
            return {}
        offers.sort(key=lambda offer: -offer.rate)
        chosen = self._best(offers, len(decoding))
        if chosen:
            self._n_refused, self._patience = 0, FIRST_PATIENCE
        else:
            chosen = self._retried(offers)
        n_cells = len(decoding) + sum(len(draft) for _, draft in chosen)
        return self._known(chosen) if chosen and self._has_room(n_cells) else {}

    def _offers(self, sequence: Sequence) -> list[_Offer]:
        """The better one of the two drafts of *sequence*, if it is good enough."""
        drafter = sequence.drafter
        if drafter is None:
            drafter = sequence.drafter = Drafter()
        drafter.follow(sequence.tokens)
        offers = [_Offer(sequence, drafter.draft, drafter.rate)]
        if self._model is not None:
            offers.append(_Offer(sequence, _UNKNOWN, drafter.model_rate, by_model=True))
        best = max(offers, key=lambda offer: offer.rate)
        # The token behind the draft is one more.
        draft = best.draft[: sequence.n_left(self._n_ctx) - 1]
        return [structs.replace(best, draft=draft)] if draft and best.rate >= LEAST_RATE else []

    def _best(self, offers: list[_Offer], n: int) -> _Taken:
        best: _Taken = []
        best_speed = WORTH * n / self._costs[n][0]
        for size in _SIZES:
            taken = _taken(offers, size)
            seconds = self._cost_s(n, sum(len(draft) for _, draft in taken))
            if seconds is None:
                break
            seconds += self._model_step_s * _n_asked(taken)
            if seconds > self._limit_s(n, n_served=len(taken)):
                continue
            promised = n + sum(_n_expected(offer.rate, len(draft)) for offer, draft in taken)
            if promised / seconds > best_speed:
                best, best_speed = taken, promised / seconds
        return best

    def _limit_s(self, n: int, *, n_served: int) -> float:
        """Seconds that a check may take which promises more to *n_served* of *n* streams."""
        if n_served == n:
            return self._max_gap_s
        return min(self._max_gap_s, MOST_SLOWDOWN * self._costs[n][0])

    def _known(self, taken: _Taken) -> dict[Sequence, list[int]]:
        """With the tokens of the draft model, where it is to be asked and knows the text."""
        drafts = {offer.sequence: draft for offer, draft in taken if not offer.by_model}
        asked = [offer.sequence for offer, _ in taken if offer.by_model]
        if self._model is None or not asked:
            return drafts
        started, n = self._clock(), _n_asked(taken)
        texts = [(sequence.seq, sequence.tokens) for sequence in asked]
        proposed = dict(zip(asked, self._model.propose(texts, n), strict=True))
        if all(proposed.values()):
            self._model_step_s = _learned(self._model_step_s, (self._clock() - started) / n)
        for offer, unknown in taken:
            draft = proposed.get(offer.sequence, [])[: len(unknown)]
            if draft and offer.sequence.drafter is not None:
                offer.sequence.drafter.take(draft)
                drafts[offer.sequence] = draft
        return drafts

    def _retried(self, offers: list[_Offer]) -> _Taken:
        """A check that does not seem worth it, once in a while."""
        self._n_refused += 1
        if self._n_refused < self._patience:
            return []
        self._n_refused, self._patience = 0, min(2 * self._patience, LAST_PATIENCE)
        return _taken(offers, _RETRY_SIZE)

    def _cost_s(self, n: int, n_drafted: int) -> float | None:
        """Seconds of a call of *n* sequences with *n_drafted* tokens more: measured, or estimated
        from other sizes. None where those are much smaller, so that larger drafts are tried one
        after the other. A first try costs no more than a step, as far as anybody knows."""
        known = self._costs[n]
        if n_drafted in known:
            return known[n_drafted]
        below = max(size for size in known if size < n_drafted)
        above = min((size for size in known if size > n_drafted), default=0)
        if above:
            slope = (known[above] - known[below]) / (above - below)
        elif n_drafted > 2 * below + max(_RETRY_SIZE, n):
            return None
        else:
            slope = max(known[below] - known[0], 0.0) / below if below else 0.0
        return known[below] + slope * (n_drafted - below)

    def observe(self, n: int, n_drafted: int, seconds: float) -> None:
        """Note what a call of *n* sequences with *n_drafted* proposed tokens has taken. The first
        one of its shape does not count: libraries allocate memory in it."""
        if (n, n_drafted) not in self._tried:
            self._tried.add((n, n_drafted))
            return
        self._costs[n][n_drafted] = _learned(self._costs[n].get(n_drafted), seconds)

    def pause(self) -> None:
        """Propose nothing for some steps: the KV cache is too full."""
        self._n_paused = PAUSE_STEPS


def _learned(known: float | None, seconds: float) -> float:
    """What a call is expected to take, after one that took *seconds*."""
    return min((known or seconds) * (1 - _LEARNING_RATE) + _LEARNING_RATE * seconds, seconds)


def _n_asked(taken: _Taken) -> int:
    """How many tokens the draft model is asked for, one after the other."""
    return max((len(draft) for offer, draft in taken if offer.by_model), default=0)


def _taken(offers: list[_Offer], size: int) -> _Taken:
    """The first *size* tokens of each draft, as many as a call may check."""
    left, taken = N_CHECKED, []
    for offer in offers:
        draft = offer.draft[: min(size, left)]
        if draft:
            taken.append((offer, draft))
            left -= len(draft)
    return taken


def _n_expected(rate: float, n: int) -> float:
    """How many tokens of a draft of *n* are right before the first wrong one."""
    return float(n) if rate >= 1 else rate * (1 - rate**n) / (1 - rate)
