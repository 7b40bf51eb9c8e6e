"""`spillover doctor` fails when the configured fallback cannot work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from spillover.cloud_fallback.providers.settings import ProviderSettings
from spillover.cloud_fallback.route.cloud_settings import CloudSettings
from spillover.edge_server import cli
from spillover.edge_server.commands.doctor.checkup import Findings
from spillover.edge_server.commands.doctor.provider_check import check_providers
from spillover.edge_server.config.model_settings import ModelSettings
from spillover.edge_server.config.settings import Settings
from tests.fakes.fake import Fake
from tests.fakes.script import Page

MODELS = Page(body=json.dumps({"data": [{"id": "m", "owned_by": "vllm"}]}))
KEYLESS = ProviderSettings(name="far", dialect="openai", model="m", key_variable="GONE")


def box(fake: Fake, **fields: Any) -> ProviderSettings:
    usual = {"name": "box", "dialect": "openai", "model": "m", "base_url": f"{fake.url}/v1"}
    return ProviderSettings(**usual | fields)


def check(*providers: ProviderSettings, fallback: Any = "ask") -> Findings:
    findings = Findings(python="3")
    settings = Settings(cloud=CloudSettings(fallback=fallback, providers=providers))
    check_providers(findings, settings, {})
    return findings


def problems(findings: Findings) -> str:
    return "\n".join(problem.what for problem in findings.problems)


def test_a_provider_that_answers_is_enough(fake: Fake) -> None:
    fake.show({"/v1/models": MODELS})
    findings = check(KEYLESS, box(fake))
    assert findings.falls_back
    assert findings.providers["box"] == f"{fake.url}/v1: vllm, 1 models"
    assert "far at https://api.openai.com/v1: there is no key: set GONE" in problems(findings)
    assert fake.requests == []


def test_the_fallback_of_a_single_model_is_shown_and_checked(fake: Fake) -> None:
    fake.show({"/v1/models": MODELS})
    findings = Findings(python="3")
    settings = Settings(
        cloud=CloudSettings(providers=(box(fake),)),
        models=(ModelSettings(name="tales"), ModelSettings(name="a", options={"fallback": "ask"})),
    )
    check_providers(findings, settings, {})
    assert findings.fallback == "never (box); a: ask"
    assert "box" in findings.providers


def test_a_server_that_is_off_is_a_problem(fake: Fake) -> None:
    """doctor used to look at keys only."""
    fake.refuse_connections()
    findings = check(box(fake))
    fake.accept_connections()
    assert not findings.falls_back
    assert f"box at {fake.url}/v1: " in problems(findings)
    assert "refused" in problems(findings)


@pytest.mark.parametrize(
    ("status", "works"), [(200, True), (404, True), (401, False), (403, False), (503, False)]
)
def test_a_refused_key_and_a_broken_server_are_problems(
    fake: Fake, status: int, works: bool
) -> None:
    fake.show({"/v1/models": Page(status=status)})
    assert check(box(fake)).falls_back == works


def test_a_model_that_is_not_there_is_noted(fake: Fake) -> None:
    fake.show({"/v1/models": MODELS})
    findings = check(box(fake, model="mistral"))
    assert findings.falls_back
    assert findings.problems[0].what == "box does not list the model mistral"
    assert findings.problems[0].todo == "it has m"


def test_no_provider_is_a_problem_unless_none_is_wanted() -> None:
    assert not check().falls_back
    assert check(fallback="never").falls_back


def test_with_never_nobody_is_reached(fake: Fake) -> None:
    assert check(box(fake), fallback="never").falls_back
    assert fake.record.accepted == 0


def test_the_exit_code_says_so(
    tmp_path: Path, fake: Fake, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPILLOVER_N_THREADS", "1")
    config = tmp_path / "config.toml"
    table = (
        f'[[provider]]\nname = "box"\ndialect = "openai"\nmodel = "m"\nbase_url = "{fake.url}/v1"'
    )
    config.write_text(f'fallback = "auto"\ndata_dir = "{tmp_path}"\n{table}\n')
    fake.refuse_connections()
    assert cli.run(["doctor", "--config", str(config)]) == 1
    said = capsys.readouterr().out
    assert "PROBLEM: box at" in said
    assert said.rstrip().endswith("but no provider can take over from the local model.")
    assert cli.run(["doctor", "--json", "--config", str(config)]) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False
    fake.accept_connections()
    assert cli.run(["doctor", "--config", str(config)]) == 0
