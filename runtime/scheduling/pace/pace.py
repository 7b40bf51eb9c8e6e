"""How long steps take on this device, and so what fits between two tokens of running streams."""

from __future__ import annotations

from collections import deque

from spillover.runtime.scheduling.pace.cost_measurement import CostMeasurement
from spillover.runtime.scheduling.pace.slice_plan import SlicePlan, best_alone, plan_slice

GAP_SHARE = 0.85
"""Share of the allowed gap to plan for; the rest absorbs errors of the prediction."""

WHOLE_SHARE = 0.93
"""The same where a slice may use up the margin: the rest is for the way to the client."""

MARGIN_WORTH = 1.25
"""Slices that use up the margin must be this much faster."""

_DECODE_LEARNING_RATE = 0.2

FIRST_SLOWDOWN = 3.0
"""A guess how much longer a decode step takes while a prompt is read."""

_N_RECENT = 8
"""The slowest of so many steps beside a prompt tells how long the next one may take."""

PART_S = 2.0
"""A reader's call should take no longer, because prompts that arrive meanwhile wait for its end."""

LEAST_PART = 64
"""Unless it has at most this many tokens: llama.cpp's kernels for many rows begin here."""

WORST_FILLER = 1.25
"""What is left of a gap after a slice is only used for another one whose token costs at most this
factor of the first one's: tiny slices cost the running streams more than they gain."""


SAVING_BATCH = 128
"""Most prompt tokens in a call while power is saved."""


class Pace:
    """Plans slices from the measured cost tables and from the decode steps it has seen."""

    def __init__(
        self,
        measurement: CostMeasurement,
        max_gap_s: float,
        n_batch: int,
        *,
        has_fixed_slices: bool = False,
    ) -> None:
        self._pure = measurement.pure
        self._mixed = measurement.mixed
        self._max_gap_s = max_gap_s
        self._n_batch = self._n_batch_full = n_batch
        self.has_fixed_slices = has_fixed_slices
        self._decode_s: dict[int, float] = {}
        self._slowdowns = deque([FIRST_SLOWDOWN], maxlen=_N_RECENT)
        self._take_token_s = 0.0

    def save_power(self, *, is_on: bool) -> None:
        """Plan smaller slices, between which the load is lower and commands are heard; or as large
        ones as ever."""
        self._n_batch = min(self._n_batch_full, SAVING_BATCH) if is_on else self._n_batch_full

    def decode_s(self, n_rows: int) -> float | None:
        """Seconds of a decode step of *n_rows*; None before the first one."""
        return self._decode_s.get(n_rows)

    def gap_s(self, n_rows: int) -> float:
        """Seconds for anything else between two decode steps of *n_rows*."""
        return GAP_SHARE * self._max_gap_s - self._decode_s.get(n_rows, 0.0)

    def room_s(self, n_all: int, depth: int, n_rows: int) -> float:
        """Seconds for slices between two decode steps of *n_rows*. The margin is used up where
        keeping it would cost prompts much of their speed, for example when it rules out a kernel
        that is faster but needs larger slices."""
        decode_s = self._decode_s.get(n_rows, 0.0)
        careful, whole = (share * self._max_gap_s - decode_s for share in (GAP_SHARE, WHOLE_SHARE))
        rate = self.between(n_all, depth, n_rows, careful).rate
        if self.between(n_all, depth, n_rows, whole).rate > MARGIN_WORTH * rate:
            return whole
        return careful

    def alone(self, n_first: int, n_all: int, depth: int) -> int:
        """Tokens to read while no sequence generates: from the first prompt the slice that reads it
        soonest and, if that is small, enough from the next prompts to make the call worthwhile.
        Fixed slices ignore measured times: they are as large as possible, and of one prompt."""
        if self.has_fixed_slices:
            return min(n_first, self._n_batch)
        n = best_alone(self._pure, n_first, depth, self._n_batch)
        return n if n < n_first else min(max(n, self._pure.efficient_size()), n_all)

    def between(
        self, n_all: int, depth: int, n_rows: int, room_s: float, *, may_share: bool = True
    ) -> SlicePlan:
        """The next slice while *n_rows* sequences generate and have *room_s* left for it.
        *may_share*: it may have the call of their next tokens."""
        return plan_slice(
            self._pure,
            self._mixed if may_share else None,
            n_left=n_all,
            depth=depth,
            n_most=self._n_batch - n_rows,
            room_s=room_s,
            decode_s=self._decode_s.get(n_rows, 0.0),
        )

    def is_worth_it(self, n: int, depth: int, room_s: float, first_token_s: float) -> bool:
        """Whether another slice fits the room and is about as efficient as the first one, which
        took *first_token_s* per token."""
        seconds = self._pure.predict(n, depth)
        return seconds is not None and seconds <= min(room_s, WORST_FILLER * n * first_token_s)

    # --- prompts that are read beside the decode steps --------------------------------------

    def fits_between(self, n: int, depth: int, n_rows: int) -> bool:
        """Whether one slice of *n* tokens takes at most half of what is allowed between two decode
        steps of *n_rows*. It then delays nobody much, and needs no reader."""
        seconds = self._pure.predict(n, depth) if n < self._n_batch else None
        return seconds is not None and 2 * seconds <= self.room_s(n, depth, n_rows)

    def part(self, n_all: int, depth: int) -> int:
        """Tokens that the reader should read next, of *n_all*: as many as a call may have, unless
        that takes so long that newcomers would wait for it."""
        sizes = sorted(self._pure.candidates(n_all, self._n_batch), reverse=True)
        return next(n for n in sizes if n <= LEAST_PART or self._takes_at_most(PART_S, n, depth))

    def _takes_at_most(self, seconds: float, n: int, depth: int) -> bool:
        predicted_s = self._pure.predict(n, depth)
        return predicted_s is None or predicted_s <= seconds

    def pause_s(self, n_rows: int) -> float:
        """Seconds between the end of a decode step of *n_rows* and the beginning of the next one,
        while prompts are read beside them: as long as allowed, so that they are read soonest."""
        step_s = self._decode_s.get(n_rows, 0.0) * max(self._slowdowns)
        return max(GAP_SHARE * self._max_gap_s - step_s, 0.0)

    def observe_take(self, n: int, seconds: float) -> None:
        """Note that *n* tokens which were read beside were put into the KV cache."""
        known = self._take_token_s or seconds / n
        self._take_token_s = known + _DECODE_LEARNING_RATE * (seconds / n - known)

    def take_s(self, n: int) -> float:
        """Seconds that putting *n* tokens into the KV cache will hold up the next decode step."""
        return self._take_token_s * n

    def observe_beside(self, n_rows: int, seconds: float) -> None:
        """Note a decode step that was made while prompts were read."""
        known = self._decode_s.setdefault(n_rows, seconds / FIRST_SLOWDOWN)
        self._slowdowns.append(seconds / known)

    # --- what is learned from calls ---------------------------------------------------------

    def observe_decode(self, n_rows: int, seconds: float) -> None:
        known = self._decode_s.get(n_rows, seconds)
        self._decode_s[n_rows] = known + _DECODE_LEARNING_RATE * (seconds - known)

    def observe_slice(self, n: int, depth: int, n_rows: int, seconds: float) -> None:
        """Note a call that read *n* prompt tokens beside *n_rows* rows of running sequences."""
        (self._mixed if n_rows else self._pure).observe(n, depth, seconds)
