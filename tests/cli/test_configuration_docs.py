"""Every key of the configuration file's tables is described, with its true default."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from spillover.cloud_fallback.policy.settings import PolicySettings, PromptRule
from spillover.cloud_fallback.privacy.settings import PrivacySettings, UserPattern
from spillover.cloud_fallback.providers.settings import ProviderSettings
from spillover.cloud_fallback.spending.limits import BudgetLimits, BudgetSettings
from spillover.cloud_fallback.spending.prices import Prices
from spillover.edge_server.commands.serve import command
from spillover.edge_server.config import config
from spillover.edge_server.config.setting_list import setting_list
from spillover.edge_server.config.setting_type import show
from spillover.edge_server.web.security import check_bind

DOCS = Path(__file__).parents[2] / "docs"
WORDS = "".join(path.read_text("utf-8") for path in DOCS.glob("*.md"))
_ROW = re.compile(r"^\| (`[a-z_`, ]+`) \| ([^|]*) \|", re.MULTILINE)


def documented() -> dict[str, str]:
    """The defaults in the table of [policy]."""
    table = (DOCS / "configuration.md").read_text("utf-8").partition("## `[policy]`")[2]
    return {
        name.strip("` "): default.strip("` ")
        for names, defaults in _ROW.findall(table)
        for name, default in zip(names.split(","), defaults.split(","), strict=True)
    }


def as_written(value: Any) -> str:
    return {None: "none", (): "[]"}.get(value) or show(value)


def test_every_threshold_of_a_policy_is_listed_with_its_default() -> None:
    assert documented() == {
        field.name: as_written(field.default) for field in msgspec.structs.fields(PolicySettings)
    }


@pytest.mark.parametrize(
    "table",
    [
        ProviderSettings,
        PromptRule,
        PrivacySettings,
        UserPattern,
        BudgetSettings,
        BudgetLimits,
        Prices,
    ],
)
def test_every_key_of_a_table_is_named(table: type[msgspec.Struct]) -> None:
    names = [field.name for field in msgspec.structs.fields(table)]
    assert [name for name in names if not re.search(rf"\b{name}\b", WORDS)] == []


def test_auto_is_explained_where_it_means_nothing_at_all() -> None:
    allowed = {setting.name: setting.allowed for setting in setting_list()}
    assert allowed["draft_model"] == "a path, or auto for none"
    assert allowed["data_dir"] == "a path or auto"


def test_the_service_starts_with_its_configuration(tmp_path: Path) -> None:
    service = (DOCS / "service.md").read_text("utf-8")
    (unit,) = re.findall(r"```ini\n(.*?)```", service, re.DOTALL)
    (file,) = re.findall(r"```toml\n(.*?)```", service, re.DOTALL)
    (started,) = re.findall(r"^ExecStart=\S+ serve (.*)$", unit, re.MULTILINE)
    keys = tmp_path / "keys"
    keys.write_text("a-key-for-the-tablet\n")
    path = tmp_path / "config.toml"
    path.write_text(file)
    context = command.make_context("serve", shlex.split(started))
    assert str(context.params["config_flag"]) == "/etc/spillover/config.toml"
    assert str(context.params["api_key_file"]) == "%d/keys"
    settings = config.load({}, environ={}, config_flag=path, api_key_file=keys).settings
    assert settings.hosts == (tomllib.loads(file)["host"],)
    check_bind(settings)
