"""Remembers which answers were handed over, why, and at what cost; never their text."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from sqlite3 import Connection

import msgspec
from msgspec import Struct

from spillover.cloud_fallback.errors import LedgerUnavailable
from spillover.cloud_fallback.events import Handoff, Seam
from spillover.cloud_fallback.spending.database import Database
from spillover.runtime.decoders import decoder_of
from spillover.runtime.events import Leg

MAX_HANDOFFS = 10_000
MAX_LEGS = 20_000
MAX_LISTED = 500

_log = logging.getLogger(__name__)


class HandoffRecord(Struct, frozen=True, kw_only=True):
    """One handoff; *id* grows with time. *legs* are those of the whole answer."""

    id: int
    at: datetime
    answer_id: str
    handoff: Handoff
    seam: Seam | None
    """None: no text came from the new writer."""
    legs: tuple[Leg, ...]
    """Empty while the answer runs."""


class HandoffJournal:
    """The newest MAX_HANDOFFS handoffs. Writing never fails an answer: a handoff that cannot be
    written is missing. *clock*: Unix time."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def handoff(self, answer_id: str, handoff: Handoff, *, owner: str = "") -> None:
        """Record a handoff of an answer of *owner*, in whose list alone it appears."""
        self._write(
            "INSERT INTO handoffs (at, owner, answer_id, seq, handoff) VALUES (?, ?, ?, ?, ?)",
            (self._clock(), owner, answer_id, handoff.seq, msgspec.json.encode(handoff)),
        )

    def seam(self, answer_id: str, seam: Seam) -> None:
        """Record how the texts were joined at the handoff with the same number."""
        self._write(
            "UPDATE handoffs SET seam = ? WHERE answer_id = ? AND seq = ?",
            (msgspec.json.encode(seam), answer_id, seam.seq),
        )

    def legs(self, answer_id: str, legs: Sequence[Leg]) -> None:
        """Record the cost of each writer of an answer that ended."""
        rows = [(answer_id, msgspec.json.encode(leg)) for leg in legs]
        self._write("INSERT INTO legs (answer_id, leg) VALUES (?, ?)", *rows)

    def recent(
        self, limit: int = 50, *, before: int | None = None, owner: str | None = None
    ) -> list[HandoffRecord]:
        """The newest handoffs, newest first: older than number *before*, of *owner*. Creates no
        file. Raises LedgerUnavailable."""
        if not self._database.path.exists():
            return []
        with self._database.transaction() as connection:
            rows = connection.execute(
                "SELECT id, at, answer_id, handoff, seam FROM handoffs"
                " WHERE (?1 IS NULL OR id < ?1) AND (?2 IS NULL OR owner = ?2)"
                " ORDER BY id DESC LIMIT ?3",
                (before, owner, max(0, min(limit, MAX_LISTED))),
            ).fetchall()
            return [_record(connection, *row) for row in rows]

    def _write(self, statement: str, *rows: tuple[object, ...]) -> None:
        """Run *statement* for each of *rows*, and forget what is too old."""
        try:
            with self._database.transaction() as connection:
                connection.executemany(statement, rows)
                for table, limit in (("handoffs", MAX_HANDOFFS), ("legs", MAX_LEGS)):
                    connection.execute(
                        f"DELETE FROM {table} WHERE id <= (SELECT max(id) FROM {table}) - ?",
                        (limit,),
                    )
        except LedgerUnavailable as error:
            _log.warning("a handoff is not recorded: %s", error)


def _record(
    connection: Connection, number: int, at: float, answer_id: str, handoff: bytes, seam: bytes
) -> HandoffRecord:
    legs = connection.execute(
        "SELECT leg FROM legs WHERE answer_id = ? ORDER BY id", (answer_id,)
    ).fetchall()
    return HandoffRecord(
        id=number,
        at=datetime.fromtimestamp(at, UTC),
        answer_id=answer_id,
        handoff=decoder_of(Handoff).decode(handoff),
        seam=decoder_of(Seam).decode(seam) if seam else None,
        legs=tuple(decoder_of(Leg).decode(leg) for (leg,) in legs),
    )
