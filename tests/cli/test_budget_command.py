"""`spillover budget`: the record that the server writes, as people and programs see it."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest

from spillover.cloud_fallback.spending.budget import Budget
from spillover.cloud_fallback.spending.limits import BudgetSettings
from spillover.cloud_fallback.spending.prices import Estimate, Prices
from spillover.edge_server.cli import run
from spillover.runtime.events import Leg, WriterId

CONFIG = """
fallback = "auto"
data_dir = "{folder}"
[[provider]]
name = "near"
dialect = "openai"
model = "m"
base_url = "http://127.0.0.1:1/v1"
[[provider]]
name = "far"
dialect = "anthropic"
model = "m"
[budget.total]
usd_per_day = 0.5
[budget.providers.far]
tokens_per_month = 2000000
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(CONFIG.format(folder=tmp_path / "records"))
    return path


def budget(config: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(["budget", "--config", str(config), *arguments]) == 0
    return capsys.readouterr().out


def spend(config: Path) -> None:
    """Pay one answer of the provider "far", and reserve another."""
    prices = Prices(input_usd=2.0, output_usd=10.0, priced_on=date(2026, 11, 1))
    estimate = Estimate(prompt_tokens=100, max_completion_tokens=50, prices=prices)
    ledger = Budget.at(config.parent / "records" / "ledger.sqlite3", BudgetSettings())
    writer = WriterId(origin="cloud", model="m", provider="far")
    leg = Leg(writer=writer, prompt_tokens=1_000, completion_tokens=200, duration_ms=1.0)
    ledger.reserve("far", estimate).settle(leg)
    ledger.reserve("far", estimate)
    ledger.close()


def test_it_shows_what_is_spent_reserved_and_allowed(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spend(config)
    data = json.loads(budget(config, capsys, "--json"))["data"]
    assert [(line["provider"], line["period"]) for line in data] == [
        (name, period) for name in (None, "near", "far") for period in ("day", "month")
    ]
    by_place = {(line["provider"], line["period"]): line for line in data}
    day = by_place[None, "day"]
    assert day["usd"] == {"spent": 0.004, "reserved": 0.0007, "limit": 0.5}
    assert day["tokens"] == {"spent": 1_200, "reserved": 150, "limit": None}
    assert by_place["far", "month"]["tokens"]["limit"] == 2_000_000
    assert by_place["far", "month"]["usd"] == {"spent": 0.004, "reserved": 0.0007, "limit": None}
    assert by_place["near", "day"]["tokens"] == {"spent": 0, "reserved": 0, "limit": None}
    table = budget(config, capsys)
    assert "all       day     $0.0040   $0.0007  $0.5000    1200       150        -" in table


def test_showing_the_budget_creates_no_record(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = json.loads(budget(config, capsys, "--json"))["data"]
    assert {line["tokens"]["spent"] for line in data} == {0}
    assert not (config.parent / "records").exists()


def test_a_provider_that_was_removed_is_still_accounted_for(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spend(config)
    config.write_text(f'data_dir = "{config.parent / "records"}"')
    data = json.loads(budget(config, capsys, "--json"))["data"]
    assert {line["provider"] for line in data} == {None, "far"}


def test_a_record_that_cannot_be_read_is_an_error_with_advice(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (config.parent / "records").mkdir()
    (config.parent / "records" / "ledger.sqlite3").write_text("no database, but much text " * 99)
    assert run(["budget", "--config", str(config)]) == 1
    assert "damaged" in capsys.readouterr().err
