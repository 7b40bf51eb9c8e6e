"""Decides which proposed tokens a step checks: speculative decoding (Leviathan et al., 2023) with
drafts from the text itself, and from a small model if there is one.

A call that carries a few tokens more takes little longer than a step of one token each, because the
weights are read once. The model's own sampler chooses every token from the logits that it would
have had, so that the answer is the same; a proposed token only saves the step that would have
produced it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeAlias

from msgspec import Struct

from spillover.runtime.backend import (
    N_CHECKED,
    DecodeAborted,
    DecodeFailed,
    DraftModel,
    KvFull,
)
from spillover.runtime.scheduling.drafts.check_costs import RETRY_SIZE, CheckCosts, learned
from spillover.runtime.scheduling.drafts.drafter import Drafter
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


PAUSE_STEPS = 64
"""Steps without drafts after the backend found no room for one."""

MOST_READ = 64
"""Tokens of texts that a draft model reads before one step, while the streams wait."""

_FIRST_READ = 16
"""The same while nothing is known of its speed. So few are not weighed."""

_LEAST_TIMED = 8
"""Reads of fewer tokens take about as long as one of a single token: they say little about longer
ones, and count as a part of the proposals."""

_LIKELY_LEFT = 512
"""Tokens for which an answer is expected to go on, if it may."""

_UNKNOWN = [-1] * N_CHECKED

_log = logging.getLogger(__name__)


class _Offer(Struct, frozen=True):
    """A draft of a sequence, and the probability of each of its tokens."""

    sequence: Sequence
    draft: list[int]
    rate: float
    by_model: bool = False
    """The tokens are not known yet: the draft model has to be asked."""
    n_unread: int = 0
    """Tokens that it must read first."""


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
        self._read_token_s: float | None = None
        """The same for a token of a text; None: not known."""
        self._has_read = self._has_proposed = False
        self._clock = clock
        self._costs = CheckCosts(max_gap_s)
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
        n = len(decoding)
        if n not in self._costs.plain_s:
            return {}
        asking, unread = self._model_offers(decoding)
        offers = [asking.get(s) or self._text_offer(s) for s in decoding]
        offers = [offer for offer in offers if offer.draft and offer.rate >= LEAST_RATE]
        offers.sort(key=lambda offer: -offer.rate)
        chosen = self._best(offers, n)
        if chosen:
            self._n_refused, self._patience = 0, FIRST_PATIENCE
        elif offers:
            chosen = self._retried(offers, n)
        if chosen and not self._has_room(n + _n_drafted(chosen)):
            chosen = []
        drafts = self._known(chosen)
        self._read_part(unread, chosen, n)
        return drafts

    def _text_offer(self, sequence: Sequence) -> _Offer:
        """What the text itself proposes."""
        drafter = _drafter(sequence)
        # The token behind the draft is one more.
        draft = drafter.draft[: sequence.n_left(self._n_ctx) - 1]
        return _Offer(sequence, draft, drafter.rate)

    def _model_offers(
        self, decoding: list[Sequence]
    ) -> tuple[dict[Sequence, _Offer], list[_Offer]]:
        """Where the draft model has more to offer than the text, and for which other streams it
        should read on: for more tokens than this step should wait."""
        found = []
        for sequence in decoding:
            drafter = _drafter(sequence)
            drafter.follow(sequence.tokens)
            if max(drafter.rate, LEAST_RATE) <= drafter.model_rate:
                n_unread = self._n_worth_reading(sequence, drafter.model_rate, decoding)
                draft = _UNKNOWN[: sequence.n_left(self._n_ctx) - 1]
                if n_unread is not None and draft:
                    found.append(_Offer(sequence, draft, drafter.model_rate, True, n_unread))
        found.sort(key=lambda offer: offer.n_unread)
        left, n_asking = self._most_read(len(decoding)), 0
        while n_asking < len(found) and found[n_asking].n_unread <= left:
            left -= found[n_asking].n_unread
            n_asking += 1
        return {offer.sequence: offer for offer in found[:n_asking]}, found[n_asking:]

    def _n_worth_reading(
        self, sequence: Sequence, rate: float, decoding: list[Sequence]
    ) -> int | None:
        """How many tokens the draft model has to read for *sequence*; None: there is none, it has
        no room for them, or the rest of the answer gains less than all streams wait for it."""
        if self._model is None:
            return None
        n = len(decoding)
        n_unread = self._model.n_unread(sequence.seq, sequence.tokens)
        if n_unread > _FIRST_READ and self._read_token_s is not None:
            unread = [self._model.n_unread(s.seq, s.tokens) for s in decoding if s is not sequence]
            n_served = 1 + sum(n_other <= _FIRST_READ for n_other in unread)
            n_left = min(sequence.n_left(self._n_ctx), _LIKELY_LEFT)
            gain_s = n_left * self._gain_s(rate, n, n_served)
            if n * n_unread * self._read_token_s > gain_s:
                return None
        n_tokens = n_unread + MOST_READ * (n > 1) + N_CHECKED * n  # others may have some as well
        return n_unread if self._model.has_room(n_tokens, [s.seq for s in decoding]) else None

    def _gain_s(self, rate: float, n: int, n_served: int) -> float:
        """Seconds that *n* streams gain with a token of one of them, at most, while the draft model
        proposes for *n_served* of them at once."""
        plain_s, gain_s = self._costs.plain_s[n], 0.0
        step_s = self._model_step_s or _LEAST_TIMED * (self._read_token_s or 0.0)
        for size in _SIZES:
            seconds = self._costs.seconds(n, n_served, n_served * size)
            if seconds is None or n_served * size > N_CHECKED:
                break
            seconds += size * step_s
            n_expected = _n_expected(rate, size)
            n_promised = n + n_served * n_expected
            is_worth_it = n_promised / seconds > WORTH * n / plain_s
            if is_worth_it and seconds <= self._limit_s(n, n_served=n_served):
                gained_s = n_promised * plain_s - n * seconds
                gain_s = max(gain_s, gained_s / n_served / (1 + n_expected))
        return gain_s

    def _most_read(self, n: int) -> int:
        """How many tokens the draft model may read before a step of *n* streams."""
        if self._read_token_s is None:
            return _FIRST_READ
        left_s = self._max_gap_s - self._costs.plain_s[n]
        return max(0, min(MOST_READ, int(left_s / max(self._read_token_s, 1e-9))))

    def _best(self, offers: list[_Offer], n: int) -> _Taken:
        best: _Taken = []
        best_speed = WORTH * n / self._costs.plain_s[n]
        for size in _SIZES:
            taken = _taken(offers, size)
            seconds = self._costs.seconds(n, len(taken), _n_drafted(taken))
            if seconds is None:
                break
            seconds += self._model_step_s * _n_asked(taken)
            read_s = _n_to_read(taken) * (self._read_token_s or 0.0)
            if seconds + read_s > self._limit_s(n, n_served=len(taken)):
                continue
            promised = n + sum(_n_expected(offer.rate, len(draft)) for offer, draft in taken)
            if promised / seconds > best_speed:
                best, best_speed = taken, promised / seconds
        return best

    def _limit_s(self, n: int, *, n_served: int) -> float:
        """Seconds that a check may take which promises more to *n_served* of *n* streams."""
        if n_served == n:
            return self._max_gap_s
        return min(self._max_gap_s, MOST_SLOWDOWN * self._costs.plain_s[n])

    def _known(self, taken: _Taken) -> dict[Sequence, list[int]]:
        """With the tokens of the draft model, where it is to be asked and knows the text."""
        drafts = {offer.sequence: draft for offer, draft in taken if not offer.by_model}
        asked = [(offer, len(draft)) for offer, draft in taken if offer.by_model]
        try:
            proposed = self._proposed([offer for offer, _ in asked], _n_asked(taken))
        except DecodeAborted:
            return drafts
        except (DecodeFailed, KvFull) as error:
            self._give_up(error)
            return drafts
        for (offer, n), draft in zip(asked, proposed, strict=True):
            _drafter(offer.sequence).take(draft[:n])
            drafts[offer.sequence] = draft[:n]
        return drafts

    def _proposed(self, offers: list[_Offer], n: int) -> list[list[int]]:
        """*n* tokens for each of *offers*, whose texts are read first."""
        if self._model is None or not offers:
            return []
        texts = [(offer.sequence.seq, offer.sequence.tokens) for offer in offers]
        offers = sorted(offers, key=lambda offer: offer.n_unread)
        while offers and offers[-1].n_unread >= _LEAST_TIMED:
            longest = offers.pop()
            self._read(longest.sequence, longest.n_unread)
        started = self._clock()
        for offer in offers:
            self._read(offer.sequence, offer.n_unread)
        proposed = self._model.propose(texts, n)
        if self._has_proposed:  # libraries allocate memory in the first call
            self._model_step_s = learned(self._model_step_s, (self._clock() - started) / n)
        self._has_proposed = True
        return proposed

    def _read_part(self, unread: list[_Offer], taken: _Taken, n: int) -> None:
        """Let the draft model read on for the stream for which it has the least to read, as far as
        this step of *n* streams has time for that beside the drafts that were *taken*."""
        n_part = self._most_read(n) - _n_to_read(taken)
        if self._model is None or not unread or n_part < 1:
            return
        first = min(unread, key=lambda offer: offer.n_unread)
        try:
            self._read(first.sequence, n_part)
        except DecodeAborted:
            return
        except (DecodeFailed, KvFull) as error:
            self._give_up(error)

    def _read(self, sequence: Sequence, n: int) -> None:
        if self._model is None or not n:
            return
        started = self._clock()
        self._model.read(sequence.seq, sequence.tokens, n)
        if n < _LEAST_TIMED:
            return
        if self._has_read:  # see above
            self._read_token_s = learned(self._read_token_s, (self._clock() - started) / n)
        self._has_read = True

    def _give_up(self, error: Exception) -> None:
        _log.warning(
            "draft_model failed, and proposes nothing from now on: %s. Answers go on without it.",
            str(error) or "its KV cache is full",
        )
        self._model = None

    def _retried(self, offers: list[_Offer], n: int) -> _Taken:
        """A check that does not seem worth it, once in a while. One that takes longer than a stream
        may wait is not made: what is known of it fades instead."""
        self._n_refused += 1
        if self._n_refused < self._patience:
            return []
        self._n_refused = 0
        for taken in (_taken(offers, RETRY_SIZE), _taken(offers[:1], 1)):
            if self._retry_s(taken, n) <= self._max_gap_s:
                self._patience = min(2 * self._patience, LAST_PATIENCE)
                return taken
        if any(offer.by_model for offer in offers):
            self._model_step_s /= 2
        self._costs.fade(n)
        return []

    def _retry_s(self, taken: _Taken, n: int) -> float:
        seconds = self._costs.seconds(n, len(taken), _n_drafted(taken)) or 0.0
        read_s = _n_to_read(taken) * (self._read_token_s or 0.0)
        return seconds + self._model_step_s * _n_asked(taken) + read_s

    def observe(self, n: int, n_served: int, n_drafted: int, seconds: float) -> None:
        """See CheckCosts."""
        self._costs.observe(n, n_served, n_drafted, seconds)

    def pause(self) -> None:
        """Propose nothing for some steps: the KV cache is too full."""
        self._n_paused = PAUSE_STEPS


def _drafter(sequence: Sequence) -> Drafter:
    if sequence.drafter is None:
        sequence.drafter = Drafter()
    return sequence.drafter


def _n_drafted(taken: _Taken) -> int:
    """Tokens of all drafts."""
    return sum(len(draft) for _, draft in taken)


def _n_to_read(taken: _Taken) -> int:
    """How many tokens the draft model has to read before it is asked."""
    return sum(offer.n_unread for offer, _ in taken)


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
