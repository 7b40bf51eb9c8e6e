"""What was spent and what is reserved, as rows. Every function runs within one transaction.

A reservation *holds* an amount until it is settled. From time to time it *notes* how much of it
is used. When its process has ended, or has not renewed it for long, the reservation expires: what
was noted is *booked* as spent, and the rest is free again. Should the process still live, as after
a night's sleep of the device, its later settlement adds only what was not booked yet.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from sqlite3 import Connection, DatabaseError

from spillover.cloud_fallback.errors import LedgerUnavailable
from spillover.cloud_fallback.spending.holder import has_ended, this_process
from spillover.cloud_fallback.spending.limits import (
    PERIODS,
    Amount,
    BudgetSettings,
    Period,
    StatementLine,
    end_of,
    first_day,
)

RESERVATION_LIFE_S = 600.0
"""A reservation that was not renewed for this long belongs to a process that died, even if the
system does not tell."""
FORGET_AFTER_S = 2 * 86400.0
DAYS_AHEAD = 31
"""What a wrong clock booked on a day to come counts as today's, but not beyond this many days:
otherwise a clock that was wrong once would close the budget for years."""
DAYS_KEPT = 400
EARLIEST = datetime(2026, 1, 1, tzinfo=UTC)
"""Spillover is not older than this."""


def check_clock(now: float) -> None:
    """Raise LedgerUnavailable for an impossible time: boards without a battery start in 1970, where
    every budget would be unspent."""
    if now < EARLIEST.timestamp():
        raise LedgerUnavailable(
            f"the device's clock says {datetime.fromtimestamp(now, UTC):%Y-%m-%d}, and a budget "
            "needs the right day: set the clock"
        )


def lines(
    connection: Connection | None,
    settings: BudgetSettings,
    providers: Iterable[str | None],
    now: float,
) -> list[StatementLine]:
    """One for each of *providers* and period; None: all providers together. *connection* None:
    nothing was ever spent."""
    return [
        _line(connection, settings, provider, period, now)
        for provider in providers
        for period in PERIODS
    ]


def _line(
    connection: Connection | None,
    settings: BudgetSettings,
    provider: str | None,
    period: Period,
    now: float,
) -> StatementLine:
    limit_nano_usd, limit_tokens = settings.limits_of(provider).of(period)
    return StatementLine(
        provider=provider,
        period=period,
        until=end_of(period, now),
        spent=_spent(connection, provider, period, now) if connection else Amount(),
        reserved=_held(connection, provider) if connection else Amount(),
        limit_nano_usd=limit_nano_usd,
        limit_tokens=limit_tokens,
    )


def names(connection: Connection, now: float) -> list[str]:
    """The providers that were paid this month or have reservations."""
    rows = connection.execute(
        "SELECT provider FROM spent WHERE day >= ?"
        " UNION SELECT provider FROM reserved WHERE held_nano_usd > 0 OR held_tokens > 0"
        " ORDER BY provider",
        (first_day("month", now),),
    )
    return [name for (name,) in rows]


def _spent(connection: Connection, provider: str | None, period: Period, now: float) -> Amount:
    """Spent in the current *period* with *provider*; None: with all."""
    return _sum(
        connection,
        "SELECT sum(nano_usd), sum(tokens), min(min(nano_usd, tokens)) FROM spent"
        " WHERE (?1 IS NULL OR provider = ?1) AND day BETWEEN ?2 AND ?3",
        (provider, first_day(period, now), _day(now, DAYS_AHEAD)),
    )


def _held(connection: Connection, provider: str | None) -> Amount:
    """Reserved and not yet settled with *provider*; None: with all."""
    return _sum(
        connection,
        "SELECT sum(held_nano_usd), sum(held_tokens), min(min(held_nano_usd, held_tokens))"
        " FROM reserved"
        " WHERE ?1 IS NULL OR provider = ?1",
        (provider,),
    )


def _sum(connection: Connection, query: str, values: tuple[str | None, ...]) -> Amount:
    """Raises sqlite3.DatabaseError for amounts that nobody can have spent."""
    row = connection.execute(query, values).fetchone()
    nano_usd, tokens, least = (0 if value is None else value for value in row)
    if not (isinstance(nano_usd, int) and isinstance(tokens, int) and least >= 0):
        raise DatabaseError("malformed amounts")
    return Amount(nano_usd, tokens)


def hold(connection: Connection, provider: str, held: Amount, noted: Amount, now: float) -> int:
    """Make a reservation; return its number."""
    cursor = connection.execute(
        "INSERT INTO reserved (provider, expires_at, held_nano_usd, held_tokens, noted_nano_usd,"
        " noted_tokens, holder) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (provider, now + RESERVATION_LIFE_S, *_pair(held), *_pair(noted), this_process()),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def renew(connection: Connection, number: int, held: Amount, noted: Amount, now: float) -> None:
    """From now on hold *held* in all, less what an expiry has booked."""
    connection.execute(
        "UPDATE reserved SET expires_at = ?, held_nano_usd = max(0, ? - booked_nano_usd),"
        " held_tokens = max(0, ? - booked_tokens), noted_nano_usd = ?, noted_tokens = ?"
        " WHERE id = ?",
        (now + RESERVATION_LIFE_S, *_pair(held), *_pair(noted), number),
    )


def note(connection: Connection, number: int, noted: Amount) -> None:
    """Note how much of a reservation is used."""
    connection.execute(
        "UPDATE reserved SET noted_nano_usd = ?, noted_tokens = ? WHERE id = ?",
        (*_pair(noted), number),
    )


def settle(connection: Connection, number: int, provider: str, spent: Amount, now: float) -> None:
    """End a reservation that cost *spent* in all."""
    row = connection.execute(
        "SELECT booked_nano_usd, booked_tokens FROM reserved WHERE id = ?", (number,)
    ).fetchone()
    connection.execute("DELETE FROM reserved WHERE id = ?", (number,))
    booked = Amount(*row) if row else Amount()
    _book(
        connection,
        provider,
        Amount(spent.nano_usd - booked.nano_usd, spent.tokens - booked.tokens),
        now,
    )


def expire(connection: Connection, now: float) -> None:
    """Free what dead processes hold, and book what they noted.

    An expiry further ahead than a reservation's life was written before the clock jumped back.
    """
    held = connection.execute(
        "SELECT id, provider, noted_nano_usd - booked_nano_usd, noted_tokens - booked_tokens,"
        " expires_at, holder FROM reserved WHERE held_nano_usd > 0 OR held_tokens > 0"
    ).fetchall()
    for number, provider, nano_usd, tokens, expires_at, holder in held:
        if now < expires_at <= now + RESERVATION_LIFE_S and not has_ended(holder):
            continue
        _book(connection, provider, Amount(max(0, nano_usd), max(0, tokens)), now)
        connection.execute(
            "UPDATE reserved SET held_nano_usd = 0, held_tokens = 0, expires_at = ?,"
            " booked_nano_usd = max(booked_nano_usd, noted_nano_usd),"
            " booked_tokens = max(booked_tokens, noted_tokens) WHERE id = ?",
            (now, number),
        )
    connection.execute("DELETE FROM reserved WHERE expires_at < ?", (now - FORGET_AFTER_S,))


def forget_old(connection: Connection, now: float) -> None:
    """Forget spending of more than DAYS_KEPT days ago; not while only looking, since a clock that
    is far ahead would forget everything."""
    connection.execute("DELETE FROM spent WHERE day < ?", (_day(now, -DAYS_KEPT),))


def _book(connection: Connection, provider: str, amount: Amount, now: float) -> None:
    """Add to today's spending; a correction may be negative."""
    today = first_day("day", now)
    connection.execute("INSERT OR IGNORE INTO spent VALUES (?, ?, 0, 0)", (today, provider))
    connection.execute(
        "UPDATE spent SET nano_usd = max(0, nano_usd + ?), tokens = max(0, tokens + ?)"
        " WHERE day = ? AND provider = ?",
        (*_pair(amount), today, provider),
    )


def _pair(amount: Amount) -> tuple[int, int]:
    return amount.nano_usd, amount.tokens


def _day(now: float, days_later: int) -> str:
    return (datetime.fromtimestamp(now, UTC).date() + timedelta(days=days_later)).isoformat()
