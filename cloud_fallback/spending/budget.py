"""Keeps the cloud's cost within its owner's limits, before and during an answer."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

import msgspec

from spillover.cloud_fallback.errors import LedgerUnavailable, PriceUnknown
from spillover.cloud_fallback.spending import ledger
from spillover.cloud_fallback.spending.database import Database
from spillover.cloud_fallback.spending.limits import (
    Allowance,
    Amount,
    BudgetSettings,
    StatementLine,
    tightest,
)
from spillover.cloud_fallback.spending.prices import (
    ASSUMED_COMPLETION_TOKENS,
    Estimate,
    Prices,
    nano_usd,
)
from spillover.runtime.events import Leg

Clock: TypeAlias = Callable[[], float]

MIN_COMPLETION_TOKENS = 16
"""A request that cannot afford so many tokens of answer is not worth sending."""
STEP_TOKENS = 256
"""Reserved at a time when an answer outgrows its reservation."""
RENEW_AFTER_S = ledger.RESERVATION_LIFE_S / 4
NOTE_AHEAD_S = 1.0
"""The ledger notes what may come within this time before it comes, so that a program that is killed
never costs more than is noted, and writes about as often."""
LEAST_AHEAD_TOKENS = 32

_log = logging.getLogger(__name__)


class Budget:
    """Enforces the limits of *settings*, with all other processes that use *database*.

    Spending never passes a limit by more than the last event of each answer under way, provided
    that prompts are no longer than estimated. If the ledger cannot be used, nothing is sent where
    a limit is set, and nothing is recorded where none is. *clock*: Unix time.
    """

    def __init__(
        self, database: Database, settings: BudgetSettings, *, clock: Clock = time.time
    ) -> None:
        self.database = database
        self.settings = settings
        self.clock = clock

    @classmethod
    def at(cls, path: Path, settings: BudgetSettings) -> Budget:
        return cls(Database(path), settings)

    def reserve(self, provider: str, estimate: Estimate) -> Reservation:
        """Set aside what the request may cost.

        Raises BudgetExceeded when not even a short answer is affordable, PriceUnknown, and
        LedgerUnavailable.
        """
        self._check_price(provider, estimate.prices)
        try:
            return self._reserve(provider, estimate)
        except LedgerUnavailable as error:
            if not self.settings.is_unlimited:
                _log.warning("an answer stays on this device: %s", error)
                raise
            _log.warning("the cost of an answer of %s is not recorded: %s", provider, error)
            return Reservation(self, provider, estimate, None, _wanted(estimate), None)

    def check(self, provider: str, prices: Prices | None) -> None:
        """Raise what reserve() would raise for every request to *provider*, which has *prices*."""
        self._check_price(provider, prices)
        if self.settings.is_unlimited:
            return
        least = Estimate(prompt_tokens=0, max_completion_tokens=None, prices=prices)
        for allowance in self.allowances():
            if allowance.line.provider in (None, provider):
                most = allowance.completion_tokens(least)
                if most is not None and most <= 0:
                    raise allowance.exceeded()

    def longest(self, provider: str, estimate: Estimate) -> int | None:
        """The longest answer, in tokens, that reserve() would pay for now; None: as long as the
        request wants. Sets nothing aside. Raises what reserve() would raise."""
        self._check_price(provider, estimate.prices)
        if self.settings.is_unlimited:
            return None
        lines = [line for line in self.statement(()) if line.provider in (None, provider)]
        limit, affordable = tightest(lines, estimate)
        return _granted(estimate, limit, affordable)

    def _check_price(self, provider: str, prices: Prices | None) -> None:
        if prices is None and self.settings.limits_money(provider):
            raise PriceUnknown(
                f"there is a budget in money, but the prices of {provider} are not known: "
                "set its prices, or a budget in tokens"
            )

    def _reserve(self, provider: str, estimate: Estimate) -> Reservation:
        wanted = _wanted(estimate)
        with self.database.transaction() as connection:
            # Not before the transaction: what another answer reserved while this one waited would
            # seem to lie too far ahead, as after a jump of the clock, and would be freed.
            now = self.clock()
            ledger.check_clock(now)
            ledger.expire(connection, now)
            ledger.forget_old(connection, now)
            lines = ledger.lines(connection, self.settings, (None, provider), now)
            limit, affordable = tightest(lines, estimate)
            most = _granted(estimate, limit, affordable)
            granted = wanted if most is None else most
            number = ledger.hold(
                connection, provider, _amount(estimate, granted), _amount(estimate, 0), now
            )
        return Reservation(self, provider, estimate, number, granted, most)

    def statement(self, providers: Iterable[str]) -> list[StatementLine]:
        """What is spent, reserved and allowed: all together, then each of *providers*, then others
        that have a limit or were paid this month. Creates no file. Raises LedgerUnavailable."""
        known = (None, *providers, *self.settings.providers)
        if not self.database.path.exists():
            if not self.settings.is_unlimited:
                self.database.check_place()
            return ledger.lines(None, self.settings, dict.fromkeys(known), self.clock())
        with self.database.transaction() as connection:
            now = self.clock()
            ledger.expire(connection, now)
            names = dict.fromkeys((*known, *ledger.names(connection, now)))
            return ledger.lines(connection, self.settings, names, now)

    def allowances(self) -> list[Allowance]:
        """Every limit and what is left of it. Raises LedgerUnavailable."""
        return [allowance for line in self.statement(()) for allowance in line.allowances()]

    def close(self) -> None:
        self.database.close()


class Reservation:
    """What is set aside for one request, until settle() or release() ends it. Left as a context
    manager without either, it costs what was noted. May be used from any thread."""

    def __init__(
        self,
        budget: Budget,
        provider: str,
        estimate: Estimate,
        number: int | None,
        granted: int,
        max_completion_tokens: int | None,
    ) -> None:
        self.provider = provider
        self.estimate = estimate
        self.max_completion_tokens = max_completion_tokens
        """The longest answer that the budget pays for, to be set in the request; None: the
        request's own limit holds."""
        self._budget = budget
        self._number = number
        self._granted = granted
        self._lock = threading.Lock()
        self._was_sent = False
        self._is_over = False
        self._n_noted = 0
        self._n_in_ledger = 0
        """Tokens of the answer that are booked if this process is killed; never fewer than came."""
        self._written = 0, budget.clock()
        """Tokens that had come, and the time, when the ledger was last written."""
        self._renewed_at = budget.clock()

    def note(self, completion_tokens: int) -> None:
        """Note that the answer has so many tokens so far, reasoning included; 0: it was sent.

        Raises BudgetExceeded when the answer must end here, and LedgerUnavailable when the ledger
        cannot tell. Touches the ledger once in NOTE_AHEAD_S, or in STEP_TOKENS tokens.
        """
        with self._lock:
            self._was_sent = True
            self._n_noted = max(self._n_noted, completion_tokens)
            now = self._budget.clock()
            is_fresh = 0 <= now - self._renewed_at < RENEW_AFTER_S
            fits = is_fresh and self._n_noted <= self._granted
            if self._is_over or (fits and self._n_noted <= self._n_in_ledger):
                return
            if self._number is None:
                self._renewed_at, self._n_in_ledger = now, self._granted
            elif fits:
                self._write(self._number, now)
            else:
                self._renew(self._number, now)

    def _write(self, number: int, now: float) -> None:
        """Note the tokens that came and those that may come soon, within what is held."""
        noted = min(self._n_noted + self._n_soon(now), self._granted)
        try:
            with self._budget.database.transaction() as connection:
                ledger.note(connection, number, _amount(self.estimate, noted))
        except LedgerUnavailable as error:
            # What is held counts in any case. The next renewal needs the ledger.
            _log.warning("what %s writes is not noted for now: %s", self.provider, error)
            noted = self._granted
        self._n_in_ledger, self._written = noted, (self._n_noted, now)

    def _n_soon(self, now: float) -> int:
        """About how many tokens come within NOTE_AHEAD_S, at the rate since the last writing."""
        n, at = self._written
        n_expected = (self._n_noted - n) * NOTE_AHEAD_S / max(now - at, 1e-3)
        return round(min(max(n_expected, LEAST_AHEAD_TOKENS), STEP_TOKENS))

    def _renew(self, number: int, now: float) -> None:
        noted = _amount(self.estimate, self._n_noted)
        with self._budget.database.transaction() as connection:
            # What this reservation already holds must not count against it.
            ledger.renew(connection, number, Amount(), noted, now)
            lines = ledger.lines(connection, self._budget.settings, (None, self.provider), now)
            limit, affordable = tightest(lines, self.estimate)
            wanted = max(self._granted, self._n_noted + STEP_TOKENS)
            granted = wanted if affordable is None else max(0, min(wanted, affordable))
            held = _amount(self.estimate, max(granted, self._n_noted))
            ledger.renew(connection, number, held, noted, now)
        self._renewed_at, self._granted, self._n_in_ledger = now, granted, self._n_noted
        self._written = self._n_noted, now
        if limit and self._n_noted > granted:
            raise limit.exceeded()

    def settle(self, leg: Leg, cached_tokens: int = 0) -> Leg:
        """Book what the answer cost; return *leg* with its cost, where the price is known.

        Never fails: if the ledger cannot be written, what was noted is booked when the reservation
        expires.
        """
        if leg.cost_usd is None and self.estimate.prices:
            cost_usd = self.estimate.prices.cost_usd(
                leg.prompt_tokens, leg.completion_tokens, cached_tokens
            )
            leg = msgspec.structs.replace(leg, cost_usd=cost_usd)
        self._end(Amount(nano_usd(leg.cost_usd or 0.0), leg.prompt_tokens + leg.completion_tokens))
        return leg

    def release(self) -> None:
        """End it without cost: nothing was sent, or nothing has to be paid."""
        self._end(Amount())

    def _end(self, spent: Amount) -> None:
        with self._lock:
            was_over, self._is_over = self._is_over, True
            if was_over or self._number is None:
                return
            now = self._budget.clock()
            try:
                with self._budget.database.transaction() as connection:
                    ledger.settle(connection, self._number, self.provider, spent, now)
            except LedgerUnavailable as error:
                _log.warning(
                    "the cost of an answer of %s is booked later: %s", self.provider, error
                )

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, *exception: object) -> None:
        self._end(_amount(self.estimate, self._n_noted) if self._was_sent else Amount())


def _wanted(estimate: Estimate) -> int:
    limit = estimate.max_completion_tokens
    return ASSUMED_COMPLETION_TOKENS if limit is None else limit


def _granted(estimate: Estimate, limit: Allowance | None, affordable: int | None) -> int | None:
    """How long the answer may be where *limit* affords so many tokens; None: as long as it wants.
    Raises BudgetExceeded where not even a short one is affordable."""
    wanted = _wanted(estimate)
    if limit is None or affordable is None or affordable >= wanted:
        return None
    if affordable < min(wanted, MIN_COMPLETION_TOKENS):
        raise limit.exceeded()
    return affordable


def _amount(estimate: Estimate, completion_tokens: int) -> Amount:
    return Amount(estimate.nano_usd(completion_tokens), estimate.prompt_tokens + completion_tokens)
