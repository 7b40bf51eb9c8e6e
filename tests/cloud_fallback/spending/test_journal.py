"""The handoffs of the device are remembered, without a word of what was said."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from spillover.cloud_fallback.errors import LedgerUnavailable
from spillover.cloud_fallback.events import Handoff, Seam
from spillover.cloud_fallback.spending import journal as journal_module
from spillover.cloud_fallback.spending.database import Database
from spillover.cloud_fallback.spending.journal import HandoffJournal, HandoffRecord
from spillover.runtime.events import Leg, WriterId

from .conftest import NOON, FakeTime

LOCAL = WriterId(origin="local", model="storyteller")
CLOUD = WriterId(origin="cloud", model="big", provider="cloudy")
SEAM = Seam(seq=1, kind="anchor", trimmed_chars=40, gap_ms=12.5)
LEG = Leg(writer=CLOUD, prompt_tokens=10, completion_tokens=20, duration_ms=300.0, cost_usd=0.00023)


def handoff(seq: int = 1, reason: str = "queue") -> Handoff:
    return Handoff(
        seq=seq,
        reason=reason,
        source=LOCAL,
        target=CLOUD,
        mode="continue",
        keep_chars=120,
        signals={"queue_s": 3.5, "limit_s": 2.0},
        redactions=2,
    )


@pytest.fixture
def database(path: Path) -> Generator[Database]:
    database = Database(path, busy_timeout_s=0.05)
    yield database
    database.close()


@pytest.fixture
def journal(database: Database, clock: FakeTime) -> HandoffJournal:
    return HandoffJournal(database, clock=clock)


def test_a_handoff_is_listed_with_its_seam_and_the_cost_of_the_answer(
    journal: HandoffJournal,
) -> None:
    journal.handoff("answer", handoff())
    journal.seam("answer", SEAM)
    journal.legs("answer", [LEG])
    assert journal.recent() == [
        HandoffRecord(
            id=1,
            at=datetime.fromtimestamp(NOON, UTC),
            answer_id="answer",
            handoff=handoff(),
            seam=SEAM,
            legs=(LEG,),
        )
    ]


def test_a_handoff_that_brought_no_text_has_no_seam(journal: HandoffJournal) -> None:
    journal.handoff("answer", handoff(1))
    journal.handoff("answer", handoff(2, "network"))
    journal.seam("answer", Seam(seq=2, kind="exact", trimmed_chars=0, gap_ms=1))
    newest, older = journal.recent()
    assert (newest.handoff.seq, older.handoff.seq) == (2, 1)
    assert older.seam is None
    assert newest.seam is not None


def test_the_newest_come_first_and_older_ones_page_by_page(journal: HandoffJournal) -> None:
    for i in range(5):
        journal.handoff(f"answer {i}", handoff())
    page = journal.recent(2)
    assert [record.answer_id for record in page] == ["answer 4", "answer 3"]
    rest = journal.recent(before=page[-1].id)
    assert [record.answer_id for record in rest] == ["answer 2", "answer 1", "answer 0"]


def test_a_list_creates_no_file(tmp_path: Path) -> None:
    # On a read-only file system it was an error, which hid all else of the page's device panel.
    path = tmp_path / "none" / "ledger.sqlite3"
    assert HandoffJournal(Database(path)).recent() == []
    assert not path.parent.exists()


def test_owners_see_only_their_own_handoffs(journal: HandoffJournal) -> None:
    journal.handoff("mine", handoff(), owner="me")
    journal.handoff("yours", handoff(), owner="you")
    assert [record.answer_id for record in journal.recent(owner="me")] == ["mine"]
    assert len(journal.recent()) == 2


@pytest.mark.parametrize(("limit", "n"), [(0, 0), (-5, 0), (10**9, 3)])
def test_an_excessive_limit_is_bounded(journal: HandoffJournal, limit: int, n: int) -> None:
    for _ in range(3):
        journal.handoff("answer", handoff())
    assert len(journal.recent(limit)) == n


def test_the_oldest_are_forgotten(journal: HandoffJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "MAX_HANDOFFS", 3)
    for i in range(10):
        journal.handoff(f"answer {i}", handoff())
    assert [record.answer_id for record in journal.recent()] == ["answer 9", "answer 8", "answer 7"]


def test_an_unwritable_record_fails_no_answer_but_reading_reports_it(
    journal: HandoffJournal, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal.handoff("answer", handoff())
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    journal.handoff("another", handoff())
    journal.seam("answer", SEAM)
    journal.legs("answer", [LEG])
    assert "not recorded" in caplog.text
    with pytest.raises(LedgerUnavailable):
        journal.recent()
    blocker.close()
    assert [record.answer_id for record in journal.recent()] == ["answer"]
