"""Decides when a provider may be asked. Pure: the clock is passed in.

Closed: requests go out, but only a few probes while it is unknown whether the provider answers.
Open: it failed, and nothing goes out until it has cooled. Half-open: it has cooled, and one request
goes out as a probe. If the provider answers it, the circuit closes again; if not, it cools for
longer.
"""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

from msgspec import Struct

OpenReason: TypeAlias = Literal[
    "rate_limited", "overloaded", "auth", "billing", "network", "truncated", "probing"
]
"""Why a request must not be sent; "probing": another request is finding out whether it may."""

N_PROBES = 4
"""Requests at a time to a provider that has not answered lately."""
KNOWN_FOR_S = 60.0
"""An answer proves for this long that the provider works."""
PROBE_LIFE_S = 120.0
"""A probe that has not reported after this time no longer counts."""
MAX_RETRY_AFTER_S = 86_400.0
MAX_GROWTH = 16


class Cooling(Struct, frozen=True, kw_only=True):
    """How long a circuit stays open: *first_s*, doubled each consecutive time, up to *longest_s*.
    It opens *after* this many consecutive failures. *probe_at_once*: the first time it is half-open
    at once."""

    reason: OpenReason
    first_s: float
    longest_s: float
    after: int = 1
    probe_at_once: bool = False


class Pass(Struct, frozen=True):
    """The right to send one request; later ones have a higher *number*."""

    number: int


class Blocked(Struct, frozen=True, kw_only=True):
    """No request may be sent for *wait_s*."""

    reason: OpenReason
    wait_s: float
    is_crowd: bool = False
    """The provider has not failed: one of its probes may be answered at any time."""


class Circuit:
    """The state of one provider, or of the network. Times are seconds of one monotonic clock."""

    def __init__(self, n_probes: int | None = N_PROBES) -> None:
        """*n_probes*: concurrent requests while the state is unknown; None: any number."""
        self._n_probes = n_probes
        self._n_passes = 0
        self._n_stale = 0
        """Passes up to this number are older than the last opening and prove nothing."""
        self._reason: OpenReason | None = None
        self._since = 0.0
        self._cool_s = 0.0
        self._probes: dict[Pass, float] = {}
        """When each probe was sent."""
        self._answered_at = float("-inf")
        self._n_openings = 0
        self._n_failures = 0

    @property
    def is_open(self) -> bool:
        return self._reason is not None

    def blocked(self, now: float) -> Blocked | None:
        """Why no request may be sent at *now*; None: one may be sent."""
        if self._reason and (wait_s := _left(self._since, self._cool_s, now)) > 0:
            return Blocked(reason=self._reason, wait_s=wait_s)
        most = self._max_probes(now)
        lives = [_left(since, PROBE_LIFE_S, now) for since in self._probes.values()]
        lives = [left_s for left_s in lives if left_s > 0]
        if most is None or len(lives) < most:
            return None
        return Blocked(reason="probing", wait_s=min(lives), is_crowd=not self.is_open)

    def admit(self, now: float) -> Pass:
        """Return the right to send one request. Call it only when blocked() is None."""
        self._n_passes += 1
        granted = Pass(self._n_passes)
        if self._max_probes(now) is not None:
            self._probes = {
                probe: since
                for probe, since in self._probes.items()
                if _left(since, PROBE_LIFE_S, now) > 0
            }
            self._probes[granted] = now
        return granted

    def answered(self, granted: Pass, now: float) -> None:
        """The provider has answered: a probe closes the circuit."""
        if self._is_stale(granted) or (self.is_open and granted not in self._probes):
            return
        if self.is_open:
            self._reason, self._n_failures = None, 0
        self._answered_at = now
        self._probes.clear()

    def succeeded(self, granted: Pass, now: float) -> None:
        """The answer is complete: the next opening is as short as the first."""
        self.answered(granted, now)
        if not self.is_open and not self._is_stale(granted):
            self._n_openings = self._n_failures = 0

    def failed(
        self, granted: Pass, cooling: Cooling, now: float, retry_after_s: float | None = None
    ) -> None:
        """The request failed: open the circuit, for *retry_after_s* if given.

        A request sent before the circuit opened can only lengthen the wait to its own
        *retry_after_s*: twenty simultaneous failures count as one.
        """
        is_probe = self._probes.pop(granted, None) is not None
        if self._is_stale(granted) or (self.is_open and not is_probe):
            self._lengthen(cooling, now, retry_after_s)
            return
        self._n_failures += 1
        if self.is_open or self._n_failures >= cooling.after:
            self._open(cooling.reason, _cool_s(cooling, self._n_openings, retry_after_s), now)

    def released(self, granted: Pass) -> None:
        """The request ended without a verdict: if it was a probe, another one may be sent."""
        self._probes.pop(granted, None)

    def _max_probes(self, now: float) -> int | None:
        """How many requests may be in flight without an answer; None: any number."""
        if self.is_open:
            return 1
        is_known = _left(self._answered_at, KNOWN_FOR_S, now) > 0
        return None if is_known else self._n_probes

    def _is_stale(self, granted: Pass) -> bool:
        return granted.number <= self._n_stale

    def _open(self, reason: OpenReason, cool_s: float, now: float) -> None:
        self._n_stale = self._n_passes
        self._reason, self._since, self._cool_s = reason, now, cool_s
        self._probes.clear()
        self._answered_at = float("-inf")
        self._n_openings += 1
        self._n_failures = 0

    def _lengthen(self, cooling: Cooling, now: float, retry_after_s: float | None) -> None:
        if cooling.reason != self._reason or retry_after_s is None:
            return
        told_s = _cool_s(cooling, 0, retry_after_s)
        if told_s > _left(self._since, self._cool_s, now):
            self._since, self._cool_s = now, told_s


def _left(since: float, length_s: float, now: float) -> float:
    """Seconds left of a period that began at *since*; 0 when the clock has gone backwards."""
    return since + length_s - now if since <= now else 0.0


def _cool_s(cooling: Cooling, n_openings: int, retry_after_s: float | None) -> float:
    if retry_after_s is not None and math.isfinite(retry_after_s) and retry_after_s > 0:
        return min(retry_after_s, MAX_RETRY_AFTER_S)
    n_doubled = n_openings - cooling.probe_at_once
    if n_doubled < 0:
        return 0.0
    return min(cooling.first_s * 2.0 ** min(n_doubled, MAX_GROWTH), cooling.longest_s)
