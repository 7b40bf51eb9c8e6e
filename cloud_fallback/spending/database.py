"""One SQLite file that threads and processes share: short transactions and clear errors."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import tempfile
import threading
from collections.abc import Generator
from pathlib import Path

from spillover.cloud_fallback.errors import LedgerUnavailable

BUSY_TIMEOUT_S = 2.0
"""A transaction takes milliseconds; a longer wait than this means that a program hangs."""
SCHEMA_VERSION = 2
_SCHEMA = """
CREATE TABLE spent (
    day TEXT NOT NULL, provider TEXT NOT NULL, nano_usd INTEGER NOT NULL, tokens INTEGER NOT NULL,
    PRIMARY KEY (day, provider)
) WITHOUT ROWID;
CREATE TABLE reserved (
    id INTEGER PRIMARY KEY AUTOINCREMENT, provider TEXT NOT NULL, expires_at REAL NOT NULL,
    held_nano_usd INTEGER NOT NULL, held_tokens INTEGER NOT NULL,
    noted_nano_usd INTEGER NOT NULL, noted_tokens INTEGER NOT NULL,
    booked_nano_usd INTEGER NOT NULL DEFAULT 0, booked_tokens INTEGER NOT NULL DEFAULT 0,
    holder TEXT NOT NULL DEFAULT ''
);
CREATE TABLE handoffs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, owner TEXT NOT NULL,
    answer_id TEXT NOT NULL, seq INTEGER NOT NULL, handoff BLOB NOT NULL, seam BLOB
);
CREATE INDEX handoffs_of_answer ON handoffs (answer_id, seq);
CREATE TABLE legs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, answer_id TEXT NOT NULL, leg BLOB NOT NULL
);
CREATE INDEX legs_of_answer ON legs (answer_id);
"""
_FROM_1 = (
    "ALTER TABLE reserved ADD COLUMN holder TEXT NOT NULL DEFAULT ''",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
_ADVICE = {
    "locked": "another program holds it; end that program",
    "readonly": "it is read-only; make it writable",
    "unable to open": "it cannot be opened; check its folder",
    "not a database": "it is damaged; move it away, and the budget starts from zero",
    "malformed": "it is damaged; move it away, and the budget starts from zero",
    "full": "the disk is full; free some space",
    "disk I/O": "the disk reports errors; check it",
}


class Database:
    """The file at *path*, made when it is first needed, readable by its owner only.

    May be used from any thread. Every error is LedgerUnavailable; the next transaction opens the
    file again, so that a repaired one is used without a restart.
    """

    def __init__(self, path: Path, *, busy_timeout_s: float = BUSY_TIMEOUT_S) -> None:
        self.path = path
        self._busy_timeout_s = busy_timeout_s
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    @contextlib.contextmanager
    def transaction(self) -> Generator[sqlite3.Connection]:
        """All of it happens or nothing does, and no other process comes in between."""
        with self._lock:
            try:
                connection = self._connection or self._open()
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                    connection.execute("COMMIT")
                finally:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
            except LedgerUnavailable:
                self._close()
                raise
            except (sqlite3.Error, OSError) as error:
                self._close()
                raise LedgerUnavailable(_message(self.path, error)) from error

    def check_place(self) -> None:
        """Raise LedgerUnavailable where the file is not there and cannot be made."""
        folder = next(each for each in self.path.absolute().parents if os.path.exists(each))
        as_self = os.access in os.supports_effective_ids
        may = os.access(folder, os.W_OK | os.X_OK, effective_ids=as_self)
        if not self.path.exists() and not may:
            why = f"no file can be made in {folder}; make it writable, or set data_dir"
            raise LedgerUnavailable(_message(self.path, OSError(why)))

    def close(self) -> None:
        with self._lock:
            self._close()

    def _open(self) -> sqlite3.Connection:
        if not self.path.exists():
            _create(self.path)
        os.close(os.open(self.path, os.O_RDWR | os.O_CLOEXEC))
        self._connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=self._busy_timeout_s,
            isolation_level=None,
            check_same_thread=False,
        )
        _check(self._connection)
        # Another process that opens the file at this moment may already do it.
        with contextlib.suppress(sqlite3.OperationalError):
            self._connection.execute("PRAGMA journal_mode = WAL")
        # A power cut may lose the last transactions, never the file. Otherwise each commit would
        # wait for the disk, within the gap of a handoff.
        self._connection.execute("PRAGMA synchronous = NORMAL")
        return self._connection

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()


def _create(path: Path) -> None:
    """A new file appears whole or not at all: one that is there and empty has lost its content."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    os.close(fd)
    try:
        with contextlib.closing(sqlite3.connect(name, isolation_level=None)) as connection:
            statements = [*filter(str.strip, _SCHEMA.split(";"))]
            for statement in ("BEGIN", *statements, f"PRAGMA user_version = {SCHEMA_VERSION}"):
                connection.execute(statement)
            connection.execute("COMMIT")
        try:
            os.link(name, path)
        except FileExistsError:
            pass  # another process was sooner
        except OSError:  # a file system without links
            Path(name).rename(path)
    finally:
        Path(name).unlink(missing_ok=True)


def _check(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise LedgerUnavailable(
            "the record of spending was written by a newer version of Spillover: "
            "use that version, or move the file away"
        )
    if version == 1:
        connection.execute("BEGIN IMMEDIATE")
        # Another process may have done it meanwhile.
        if connection.execute("PRAGMA user_version").fetchone() == (1,):
            for statement in _FROM_1:
                connection.execute(statement)
        connection.execute("COMMIT")
    elif version < SCHEMA_VERSION:
        raise sqlite3.DatabaseError("not a database of ours, or an empty file")


def _message(path: Path, error: Exception) -> str:
    text = str(error)
    advice = next((advice for part, advice in _ADVICE.items() if part in text), text)
    return f"the record of spending, {path}, cannot be used: {advice}"
