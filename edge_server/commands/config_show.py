"""spillover config: the settings in force."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.edge_server.commands.options import load_config, setting_options
from spillover.edge_server.commands.output import print_result
from spillover.edge_server.config import config_file
from spillover.edge_server.config.config import DEFAULT, Config
from spillover.edge_server.config.setting_list import Setting, help_of, setting_list
from spillover.edge_server.config.setting_type import HIDDEN, show

_EPILOG = """\b
Examples:
  spillover config
  spillover config --toml > config.toml      a file to start from

docs/configuration.md describes every setting.
"""


@click.command("config", epilog=_EPILOG)
@click.option("--json", "form", flag_value="json", help="Print JSON.")
@click.option("--toml", "form", flag_value="toml", help="Print a configuration file.")
@click.option("--markdown", "form", flag_value="markdown", hidden=True)
@setting_options([])
def command(form: str | None, config_flag: Path | None) -> None:
    """Show every setting with its value and the origin of the value. Keys are hidden."""
    if form == "markdown":
        print_result(f"{as_markdown()}\n\n{policy_as_markdown()}")
        return
    config = load_config({}, config_flag)
    shown = {"json": as_json, "toml": as_toml, None: as_table}[form](config)
    print_result(shown)


def as_table(config: Config) -> str:
    """Name, value and origin in columns."""
    rows = [(s.name, config.shown(s), config.values[s.name].origin) for s in setting_list()]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"{name:<{widths[0]}}  {value:<{widths[1]}}  {origin}" for name, value, origin in rows]
    file = config.file or f"none ({config_file.user_path()} does not exist)"
    return "\n".join([f"configuration file: {file}", "", *lines])


def as_json(config: Config) -> str:
    """The file and, for each setting, value and origin."""
    settings = {
        setting.name: {
            "value": _public(setting, config),
            "origin": config.values[setting.name].origin,
        }
        for setting in setting_list()
    }
    found = {"file": config.file, "settings": settings}
    return msgspec.json.format(msgspec.json.encode(found, enc_hook=str)).decode()


def as_toml(config: Config) -> str:
    """A configuration file with the same effect, except for keys and tables; defaults are commented
    out."""
    lines = []
    if config.tables:
        names = ", ".join(config.tables)
        lines += [f"# Not here: the tables of {config.file} ({names}). Copy them from there.", ""]
    for setting in setting_list():
        value = _public(setting, config)
        active = config.values[setting.name].origin != DEFAULT and not setting.is_secret
        text = "auto" if value is None else value
        lines += [
            f"# {setting.help}  ({setting.allowed})",
            f"{'' if active else '# '}{setting.name} = {_toml_value(text)}",
            "",
        ]
    return "\n".join(lines).rstrip()


def as_markdown() -> str:
    """The table of all settings in docs/configuration.md."""
    rows = ["| setting | flag | variable | allowed | default | what it does |"]
    rows += ["|---|---|---|---|---|---|"]
    rows += [_row(setting) for setting in setting_list()]
    return "\n".join(rows)


def policy_as_markdown() -> str:
    """The table of [policy] in docs/configuration.md."""
    rows = ["| key | default | what it is |", "|---|---|---|"]
    for field in msgspec.structs.fields(PolicySettings):
        default = {None: "none", (): "`[]`"}.get(field.default) or show(field.default)
        rows.append(f"| `{field.name}` | {default} | {help_of(field).text} |")
    return "\n".join(rows)


def _row(setting: Setting) -> str:
    flag = f"`{setting.flag}`" if setting.flag else ("`MODEL`" if setting.name == "model" else "")
    cells = [f"`{setting.name}`", flag, f"`{setting.variable}`", setting.allowed]
    cells += [setting.default_text, setting.help]
    return f"| {' | '.join(cells)} |"


def _public(setting: Setting, config: Config) -> Any:
    value = config.values[setting.name].value
    return [HIDDEN for _ in value] if setting.is_secret else value


def _toml_value(value: object) -> str:
    """A text, number, Boolean or list of texts; JSON and TOML write these alike."""
    return msgspec.json.encode(value, enc_hook=str).decode()
