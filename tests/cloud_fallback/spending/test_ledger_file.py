"""What happens when the file of the budget cannot be used."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from spillover.cloud_fallback.errors import LedgerUnavailable
from spillover.cloud_fallback.spending import database
from spillover.cloud_fallback.spending.budget import Budget, Reservation
from spillover.cloud_fallback.spending.database import Database
from spillover.cloud_fallback.spending.ledger import RESERVATION_LIFE_S
from spillover.cloud_fallback.spending.limits import BudgetLimits, BudgetSettings

from .amounts import cost, held, leg, spend, spent_today
from .conftest import FakeTime, MakeBudget

LIMITED = BudgetLimits(tokens_per_day=1000)


def refused(budget: Budget) -> str:
    with pytest.raises(LedgerUnavailable) as caught:
        budget.reserve("p", cost())
    return str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"not a database" * 100, b"SQLite format 3\0" + b"x" * 4000]
)
def test_a_damaged_file_closes_the_budget_and_is_left_alone(
    make_budget: MakeBudget, path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    message = refused(make_budget(LIMITED))
    assert "damaged" in message
    assert caplog.messages == [f"an answer stays on this device: {message}"]
    assert path.read_bytes() == content


def test_a_file_that_was_emptied_does_not_forget_what_was_spent(
    make_budget: MakeBudget, path: Path
) -> None:
    # SQLite takes a file of no bytes for a new database.
    spend(make_budget(LIMITED), 900, 90)
    path.write_bytes(b"")
    for name in ("-wal", "-shm"):
        path.with_name(path.name + name).unlink(missing_ok=True)
    assert "damaged" in refused(make_budget(LIMITED))


def test_a_database_of_another_program_is_left_alone(make_budget: MakeBudget, path: Path) -> None:
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE theirs (x)")
    assert "damaged" in refused(make_budget(LIMITED))


@pytest.mark.parametrize("amount", [-5, "'abc'", 0.5])
def test_impossible_amounts_close_the_budget(
    make_budget: MakeBudget, path: Path, amount: object
) -> None:
    spend(make_budget(LIMITED), 10, 10)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as ledger:
        ledger.execute(f"UPDATE spent SET tokens = {amount}")
    assert "damaged" in refused(make_budget(LIMITED))


def test_a_new_file_is_whole_or_not_there(
    make_budget: MakeBudget, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_SCHEMA", "CREATE TABLE half (x); CREATE nonsense")
    refused(make_budget(LIMITED))
    monkeypatch.undo()
    assert not list(path.parent.iterdir())
    make_budget(LIMITED).reserve("p", cost())


def test_a_file_that_was_repaired_is_used_without_a_restart(
    make_budget: MakeBudget, path: Path
) -> None:
    budget = make_budget(LIMITED)
    path.parent.mkdir()
    path.write_bytes(b"x" * 5000)
    refused(budget)
    path.unlink()
    budget.reserve("p", cost())


def test_a_locked_file_closes_the_budget_after_a_bounded_wait(
    make_budget: MakeBudget, path: Path
) -> None:
    budget = make_budget(LIMITED)
    running = budget.reserve("p", cost(100, 100))
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    assert "another program holds it" in refused(budget)
    with pytest.raises(LedgerUnavailable):
        running.note(101)
    blocker.close()
    running.note(101)


def test_an_answer_that_cannot_be_settled_does_not_fail_and_is_booked_later(
    make_budget: MakeBudget, path: Path, clock: FakeTime
) -> None:
    budget = make_budget(LIMITED)
    reservation = budget.reserve("p", cost(100, 100))
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    assert reservation.settle(leg(100, 20)).cost_usd is not None
    blocker.close()
    assert held(budget) == 200
    clock.now += RESERVATION_LIFE_S
    assert budget.allowances()[0].spent == 100


@pytest.fixture
def as_a_user() -> Generator[None]:
    """File permissions do not bind root."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


@pytest.fixture
def readonly_folder() -> Generator[Path]:
    folder = Path(tempfile.mkdtemp())
    ledger = Database(folder / "ledger.sqlite3")
    with ledger.transaction():
        pass
    ledger.close()
    folder.chmod(0o555)
    (folder / "ledger.sqlite3").chmod(0o444)
    yield folder
    folder.chmod(0o755)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def test_a_readonly_file_closes_the_budget(readonly_folder: Path, as_a_user: None) -> None:
    budget = Budget.at(readonly_folder / "ledger.sqlite3", BudgetSettings(total=LIMITED))
    assert "cannot be" in refused(budget)


def test_a_folder_in_which_no_file_can_be_made_is_told_before_anything_is_sent(
    readonly_folder: Path, as_a_user: None
) -> None:
    # `doctor`, GET /v1/budget and /v1/route/explain said that all of the limit was left.
    path = readonly_folder / "state" / "ledger.sqlite3"
    budget = Budget.at(path, BudgetSettings(total=LIMITED))
    with pytest.raises(LedgerUnavailable, match=f"no file can be made in {readonly_folder}"):
        budget.allowances()
    assert Budget.at(path, BudgetSettings()).allowances() == []


def test_a_folder_in_place_of_the_file_closes_the_budget(
    make_budget: MakeBudget, path: Path
) -> None:
    path.mkdir(parents=True)
    refused(make_budget(LIMITED))


def test_a_ledger_of_the_first_version_goes_on(make_budget: MakeBudget, path: Path) -> None:
    spend(make_budget(LIMITED), 100, 50)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as older:
        older.execute("ALTER TABLE reserved DROP COLUMN holder")
        older.execute("PRAGMA user_version = 1")
    budget = make_budget(LIMITED)
    budget.reserve("p", cost(100, 100))
    assert spent_today(budget).tokens == 150
    assert held(make_budget(LIMITED)) == 200


def test_a_ledger_of_a_newer_version_is_not_touched(make_budget: MakeBudget, path: Path) -> None:
    spend(make_budget(LIMITED), 10, 10)
    newer = sqlite3.connect(path, isolation_level=None)
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    budget = make_budget(LIMITED)
    for _ in range(2):  # the second time used to be let in
        assert "newer version" in refused(budget)


def test_without_limits_a_damaged_file_only_costs_the_record(
    make_budget: MakeBudget, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.parent.mkdir()
    path.write_bytes(b"x" * 5000)
    with make_budget().reserve("p", cost()) as reservation:
        reservation.note(10_000)
        reservation.settle(leg())
    assert "is not recorded" in caplog.text


def test_without_limits_what_is_spent_is_recorded_all_the_same(make_budget: MakeBudget) -> None:
    budget = make_budget()
    spend(budget, 100, 100)
    assert spent_today(budget, "p").tokens == 200


def test_only_its_owner_can_read_the_file(make_budget: MakeBudget, path: Path) -> None:
    budget = make_budget(LIMITED)
    running: Reservation = budget.reserve("p", cost())
    modes = {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {0o600}
    running.release()
