"""Several processes and threads share one ledger; some of them die."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from spillover.cloud_fallback.errors import BudgetExceeded
from spillover.cloud_fallback.spending import holder
from spillover.cloud_fallback.spending.budget import Budget
from spillover.cloud_fallback.spending.database import Database
from spillover.cloud_fallback.spending.ledger import RESERVATION_LIFE_S
from spillover.cloud_fallback.spending.limits import BudgetLimits, BudgetSettings
from spillover.cloud_fallback.spending.prices import Estimate

from .conftest import FakeTime

SPENDER = """
import sys
from pathlib import Path
from spillover.cloud_fallback.errors import BudgetExceeded
from spillover.cloud_fallback.spending.budget import Budget
from spillover.cloud_fallback.spending.database import Database
from spillover.cloud_fallback.spending.prices import Estimate
from spillover.cloud_fallback.spending.limits import BudgetSettings, BudgetLimits

now, limit = float(sys.argv[2]), int(sys.argv[3])
settings = BudgetSettings(total=BudgetLimits(tokens_per_day=limit))
budget = Budget(Database(Path(sys.argv[1]), busy_timeout_s=30), settings, clock=lambda: now)
one = Estimate(prompt_tokens=10, max_completion_tokens=90, prices=None)
print("ready", flush=True)
sys.stdin.readline()
n = 0
try:
    while True:
        with budget.reserve("p", one) as reservation:
            reservation.note(90)
            n += 1
            if "die" in sys.argv:
                print("holding", flush=True)
                sys.stdin.readline()
except BudgetExceeded:
    print(n, flush=True)
"""


def spender(path: Path, now: float, limit: int, *extra: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SPENDER, str(path), str(now), str(limit), *extra],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def test_four_processes_spend_a_budget_to_the_last_token_and_not_one_more(
    path: Path, clock: FakeTime
) -> None:
    processes = [spender(path, clock.now, 10_000) for _ in range(4)]
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    counts = [int(process.communicate()[0]) for process in processes]
    assert sum(counts) == 100


def killed_while_it_holds(path: Path, clock: FakeTime) -> None:
    """A process that has received its whole answer of 90 tokens, for 10, is killed."""
    process = spender(path, clock.now, 150, "die")
    assert process.stdin
    assert process.stdout
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "holding\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_what_a_killed_process_had_received_is_booked_at_the_next_start(
    path: Path, clock: FakeTime
) -> None:
    """Only the prompt was, after ten minutes: the answer, which costs most, came for nothing."""
    killed_while_it_holds(path, clock)
    limits = BudgetSettings(total=BudgetLimits(tokens_per_day=150))
    with closing(Budget(Database(path), limits, clock=clock)) as budget:
        (allowance,) = budget.allowances()
    assert (allowance.spent, allowance.reserved) == (100, 0)


def test_where_the_system_does_not_tell_a_killed_process_holds_its_reservation_for_a_while(
    path: Path, clock: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_while_it_holds(path, clock)
    monkeypatch.setattr(holder, "_place", lambda: "another boot")
    limits = BudgetSettings(total=BudgetLimits(tokens_per_day=150))
    with closing(Budget(Database(path), limits, clock=clock)) as budget:
        assert budget.allowances()[0].reserved == 100
        clock.now += RESERVATION_LIFE_S
        (allowance,) = budget.allowances()
    assert (allowance.spent, allowance.reserved) == (100, 0)


@pytest.mark.parametrize("name", ["", " ", "x", "x 1", "x y z", "a b c d"])
def test_a_name_that_means_nothing_has_not_ended(name: str) -> None:
    assert not holder.has_ended(name)
    assert not holder.has_ended(f"{holder._place()} {name}")


def test_this_process_has_not_ended() -> None:
    assert not holder.has_ended(holder.this_process())


def test_twenty_threads_spend_a_budget_to_the_last_token(path: Path, clock: FakeTime) -> None:
    budget = Budget(
        Database(path), BudgetSettings(total=BudgetLimits(tokens_per_day=2000)), clock=clock
    )
    one = Estimate(prompt_tokens=10, max_completion_tokens=90, prices=None)

    def spend(_: int) -> int:
        n = 0
        try:
            while True:
                with budget.reserve("p", one) as reservation:
                    reservation.note(90)
                    n += 1
        except BudgetExceeded:
            return n

    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(spend, range(20))) == 20
    budget.close()
