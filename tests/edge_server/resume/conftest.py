"""A server whose one provider is a fake."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from spillover.cloud_fallback.spending.budget import Budget
from spillover.cloud_fallback.spending.limits import Allowance, BudgetLimits, BudgetSettings
from tests.edge_server.conftest import Server
from tests.fakes.fake import Fake

CONFIG = """
fallback = "auto"
data_dir = "{folder}"
[[provider]]
name = "fake"
dialect = "openai"
model = "cloud-model"
base_url = "{url}/v1"
key_variable = "FAKE_KEY"
is_local_network = false
prices = {{ input_usd = 2.0, output_usd = 10.0, priced_on = 2026-11-01 }}
[budget.total]
tokens_per_day = 1000000
[policy]
switched_off = ["language", "wrong_script", "refusal", "repetition"{off}]
{policy}
"""

DOUBTS = """
p_wrong_hold = 0.0
p_wrong_enter = 1.0
p_wrong_forget = 0.0
hold_tokens = 1024
hold_s = 600
"""
"""All that the local model says is kept back, and never given up."""


class Site:
    """The server, its provider and its ledger."""

    def __init__(self, folder: Path, fake: Fake, policy: str, **settings: object) -> None:
        config = folder / "config.toml"
        off = "" if policy else ', "low_confidence"'
        config.write_text(CONFIG.format(folder=folder, url=fake.url, off=off, policy=policy))
        self.fake = fake
        self.server = Server(folder, "--config", str(config), keep_alive_s=0.05, **settings)
        self.http = httpx.Client(base_url=self.server.url, timeout=60)
        limits = BudgetSettings(total=BudgetLimits(tokens_per_day=1_000_000))
        self._budget = Budget.at(folder / "ledger.sqlite3", limits)

    @property
    def allowance(self) -> Allowance:
        """What is spent and reserved, in tokens."""
        (allowance,) = self._budget.allowances()
        return allowance

    def stop(self) -> None:
        self.http.close()
        self._budget.close()
        assert self.server.stop() == 0


@pytest.fixture
def make_site(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Site]]:
    monkeypatch.setenv("FAKE_KEY", "sk-canary")
    sites: list[Site] = []

    def make(policy: str = "", **settings: object) -> Site:
        sites.append(Site(tmp_path, fake, policy, **settings))
        return sites[-1]

    yield make
    for site in sites:
        site.stop()
