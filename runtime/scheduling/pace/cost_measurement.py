"""Measures the cost of slices on this device, one call at a time, while the engine is idle."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from msgspec import Struct

from spillover.runtime.backend import Backend, DecodeAborted, KvFull, Rows, Tokens
from spillover.runtime.kv_cache.cache import KvCache
from spillover.runtime.machine.device import FreeCores, our_cores, were_taken
from spillover.runtime.scheduling.pace.slice_costs import SavedCosts, SliceCosts

_PURE_ORDER = (1, 16, 64, 128, 8, 256, 32, 4, 512, 48, 24, 96, 192, 384)
"""The sizes that matter most come first, in case a request comes or the time runs out."""

_MIXED_ORDER = (16, 64, 128, 256)
_N_MIXED_ROWS = 3
_SLOPE_SIZES = (16, 64, 256, 4)
_SLOPE_DEPTH = 448
"""Slopes are measured with slices that follow this many tokens."""

_N_PASSES = 2
_N_REPEATS = 2
"""Everything is measured in two passes, small calls twice in each; the shortest time counts.
Passes are seconds apart: a disturbance of one has mostly ended before the next."""

_LONGEST_CALL_S = 2.0
_TOTAL_S = 20.0

_LOOK_S = 0.2
"""After so much measuring, it is asked whether other programs took the cores meanwhile."""

_N_REPEATED = 2
"""So many times at most, what they disturbed is measured again at once."""

_FIRST_REST_S, _LONGEST_REST_S = 60.0, 960.0
"""Then all is measured again later: after this time, and each time after twice as long."""


class SavedCostTables(Struct, frozen=True, kw_only=True):
    """What is kept on disk for one model on one device."""

    pure: SavedCosts
    mixed: SavedCosts


_NO_COSTS = SavedCosts(per_call_s={}, per_token_and_cell_s={})
NOTHING_TO_MEASURE = SavedCostTables(pure=_NO_COSTS, mixed=_NO_COSTS)


class CostMeasurement:
    """The cost tables of pure and mixed slices, and the measurements that remain.

    Stops after some seconds of measuring in total, however slow the device is. Skips calls that
    would take too long to be useful. What is measured while other programs take the cores can be
    wrong by a factor that differs from size to size: it is used until it can be measured again, and
    not kept for the next start.
    """

    def __init__(
        self,
        backend: Backend,
        saved: SavedCostTables | None,
        on_done: Callable[[SavedCostTables], None],
        clock: Callable[[], float] = time.perf_counter,
        new_cores: Callable[[], FreeCores | None] = our_cores,
    ) -> None:
        """*on_done* gets tables that no other program disturbed."""
        self._backend = backend
        self._new_cores = new_cores
        self._on_done = on_done
        self._clock = clock
        self.pure = SliceCosts(saved.pure if saved else None)
        self.mixed = SliceCosts(saved.mixed if saved else None)
        self.mixed.borrow_slopes(self.pure)
        self._todo: list[tuple[str, int]] = [] if saved else _all_measurements()
        self._spent_s = 0.0
        self._measuring = False
        self._cores: FreeCores | None = None
        self._unjudged: list[tuple[str, int]] = []
        self._unjudged_s = 0.0
        self._disturbed: list[tuple[str, int]] = []
        self._n_repeated = 0
        self._rest_s = _FIRST_REST_S
        self._next_try = 0.0

    @property
    def is_sound(self) -> bool:
        """Whether all is measured, and was not disturbed."""
        return not (self._todo or self._disturbed)

    @property
    def wait_s(self) -> float | None:
        """Seconds until measure_one() has something to do; None: it never will."""
        if self._todo:
            return 0.0
        return max(self._next_try - self._clock(), 0.0) if self._disturbed else None

    def save(self) -> SavedCostTables:
        return SavedCostTables(pure=self.pure.save(), mixed=self.mixed.save())

    def interrupt(self) -> None:
        """End a running measurement because a request has arrived. Any thread may call it."""
        if self._measuring:
            self._backend.abort()

    def measure_one(self, kv: KvCache) -> None:
        """Make the next measurement, if any remains, unless it would take too long or too many
        cells."""
        if self.wait_s != 0.0:
            return
        if not self._todo:
            if self._is_disturbed():
                self._rest()
                return
            self._todo, self._disturbed = _all_measurements(), []
            self._spent_s, self._n_repeated = 0.0, 0
        if self._cores is None:
            self._cores = self._new_cores()
        kind, n = self._todo[0]
        before_s = self._spent_s
        try:
            self._measuring = True
            self._measure(kind, n, kv)
        except DecodeAborted:
            return
        except KvFull:
            pass
        finally:
            self._measuring = False
        self._unjudged.append(self._todo.pop(0))
        self._unjudged_s += self._spent_s - before_s
        is_late = self._spent_s > _TOTAL_S
        if is_late:
            self._todo.clear()
        if self._unjudged_s >= _LOOK_S or not self._todo:
            if self._is_disturbed():
                self._disturbed += self._unjudged
            self._unjudged, self._unjudged_s = [], 0.0
        if self.is_sound:
            self._on_done(self.save())
        elif not self._todo:
            self._repeat(is_late=is_late)

    def _is_disturbed(self) -> bool:
        return were_taken(self._cores, self._backend.info.n_threads)

    def _repeat(self, *, is_late: bool) -> None:
        if is_late or self._n_repeated == _N_REPEATED:
            self._rest()
        else:
            self._n_repeated += 1
            self._todo, self._disturbed = self._disturbed, []

    def _rest(self) -> None:
        self._next_try = self._clock() + self._rest_s
        self._rest_s = min(2 * self._rest_s, _LONGEST_REST_S)

    def _measure(self, kind: str, n: int, kv: KvCache) -> None:
        """Time calls on scratch sequences, which are empty again afterwards."""
        n_rows = _N_MIXED_ROWS if kind == "mixed" else 0
        if not self._may_time(n, kv, n_rows=n_rows):
            return
        seqs = kv.take_ids(1 + n_rows)
        if not seqs:
            raise KvFull
        try:
            if kind == "slope":
                self._measure_slopes(seqs[0], kv)
                return
            table = self.mixed if n_rows else self.pure
            others = [Rows(seq, 0, self._tokens(1), True) for seq in seqs[1:]]
            for _ in range(_n_repeats(n)):
                table.measured(n, self._time([*others, Rows(seqs[0], 0, self._tokens(n), True)]))
                for seq in seqs:
                    self._backend.keep(seq, 0)
        finally:
            for seq in seqs:
                kv.drop(seq)

    def _may_time(self, n: int, kv: KvCache, *, n_rows: int = 0, depth: int = 0) -> bool:
        """Whether a call of *n* tokens takes neither too long nor too many cells."""
        is_short = (self.pure.predict(n, depth) or 0.0) <= _LONGEST_CALL_S
        is_one_call = max(n, depth) <= self._backend.info.n_batch - n_rows
        return is_short and is_one_call and kv.has_room(n + n_rows + depth)

    def _measure_slopes(self, seq: int, kv: KvCache) -> None:
        """Time slices behind one text, which is read again only where it cannot be cut."""
        n_held = 0
        for n in filter(self.pure.is_measured, _SLOPE_SIZES):
            if not self._may_time(n, kv, depth=_SLOPE_DEPTH):
                continue
            for _ in range(_n_repeats(n)):
                if n_held != _SLOPE_DEPTH:
                    self._backend.keep(seq, 0)
                    self._time([Rows(seq, 0, self._tokens(_SLOPE_DEPTH), False)])
                seconds = self._time([Rows(seq, _SLOPE_DEPTH, self._tokens(n), True)])
                self.pure.measured_deep(n, _SLOPE_DEPTH, seconds)
                n_held = self._backend.keep(seq, _SLOPE_DEPTH)

    def _tokens(self, n: int) -> Tokens:
        """Some to read."""
        return np.arange(n, dtype=np.int32) % self._backend.info.n_vocab

    def _time(self, batch: list[Rows]) -> float:
        """Seconds of one call."""
        started = self._clock()
        self._backend.decode(batch)
        if any(rows.n_outputs for rows in batch):
            self._backend.logits(0)  # waits for a device that computes asynchronously
        seconds = self._clock() - started
        self._spent_s += seconds
        return seconds


def _n_repeats(n: int) -> int:
    return _N_REPEATS if n <= 64 else 1


def _all_measurements() -> list[tuple[str, int]]:
    pure = [("pure", n) for n in _PURE_ORDER]
    slopes = ("slope", min(_SLOPE_SIZES))
    mixed = [("mixed", n) for n in _MIXED_ORDER]
    return [*pure[:6], slopes, *mixed, *pure[6:]] * _N_PASSES
