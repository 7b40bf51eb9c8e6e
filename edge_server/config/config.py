"""Layered configuration: defaults < configuration file < environment < flags.

A setting has one name everywhere: ``n_ctx = 4096`` at the top level of the file,
``SPILLOVER_N_CTX=4096`` in the environment, ``--n-ctx 4096`` as a flag.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct

from spillover.edge_server.config import config_file, config_tables, setting_type
from spillover.edge_server.config.setting_list import Setting, assemble, setting_list, table_list
from spillover.edge_server.config.settings import Settings
from spillover.edge_server.errors import ConfigError

DEFAULT = "default"
_PREFIX = "SPILLOVER_"


class Value(Struct, frozen=True):
    """A checked value and its origin: "default", "FILE: port", "SPILLOVER_PORT" or "--port"."""

    value: Any
    origin: str


class Config(Struct, frozen=True, kw_only=True):
    """The settings in force, each with its origin."""

    settings: Settings
    values: dict[str, Value]
    file: Path | None
    """The configuration file that was read, if any."""
    tables: tuple[str, ...] = ()
    """The names of its tables."""
    warnings: tuple[str, ...] = ()

    def shown(self, setting: Setting) -> str:
        """The value for people to read; secrets are hidden."""
        value = self.values[setting.name].value
        if setting.is_secret:
            return ", ".join(setting_type.HIDDEN for _ in value) or "none"
        if value == setting.default:
            return setting.default_text
        return setting_type.show(value)


def load(
    flags: Mapping[str, object],
    *,
    environ: Mapping[str, str],
    config_flag: Path | None = None,
    api_key_file: Path | None = None,
    without_file: bool = False,
) -> Config:
    """Merge the layers. *flags* are texts, or None, by setting name. *without_file*: no
    configuration file counts, not even the user's own.

    Raises ConfigError, which names the source, the value and what is allowed.
    """
    file = None if without_file else config_file.locate(config_flag, environ)
    warnings = _unknown_variables(environ)
    values = {setting.name: Value(setting.default, DEFAULT) for setting in setting_list()}
    tables: dict[str, Any] = {}
    if file is not None:
        content = config_file.read(file)
        tables = config_tables.take(content, file)
        in_file = _from_file(file, content)
        values |= in_file
        if "api_keys" in in_file:
            warnings += _shared(file)
    above_file = _from_environment(environ) | _from_flags(flags)
    values |= above_file
    if models := tables.get(config_tables.MODELS):
        above = {name: value.value for name, value in above_file.items()}
        tables[config_tables.MODELS] = tuple(model.under(above) for model in models)
    if api_key_file is not None:
        values |= _from_key_file(api_key_file, values)
        warnings += _shared(api_key_file)
    given = {name: value.value for name, value in values.items() if value.origin != DEFAULT}
    return Config(
        settings=assemble(Settings, given | tables),
        values=values,
        file=file,
        tables=tuple(field.encode_name for field in table_list() if field.encode_name in tables),
        warnings=tuple(warnings),
    )


def _checked(setting: Setting, value: object, source: str, *, from_text: bool) -> Value:
    """*value* as the setting's type. Raises ConfigError."""
    found = setting_type.parse(
        value,
        setting.type,
        name=setting.name,
        source=source,
        from_text=from_text,
        is_secret=setting.is_secret,
    )
    return Value(found, source)


def _from_file(path: Path, content: Mapping[str, Any]) -> dict[str, Value]:
    known = {setting.name: setting for setting in setting_list()}
    found = {}
    for key, value in content.items():
        if key not in known:
            raise ConfigError(_unknown_key(path, key, value, known))
        if known[key].is_list and isinstance(value, str):
            value = [value]
        found[key] = _checked(known[key], value, f"{path}: {key}", from_text=False)
    return found


def _unknown_key(path: Path, key: str, value: object, known: Iterable[str]) -> str:
    if isinstance(value, dict):
        return (
            f"{path}: there is no table [{key}]: the tables are {config_tables.names()}; all other "
            "settings belong at the top level"
        )
    near = difflib.get_close_matches(key, known, n=1)
    guess = f"did you mean {near[0]}?" if near else "`spillover config` lists all settings"
    return f"{path}: there is no setting {key}: {guess}"


def _from_environment(environ: Mapping[str, str]) -> dict[str, Value]:
    """An empty variable counts as not set. Commas separate the items of a list."""
    found = {}
    for setting in setting_list():
        text = environ.get(setting.variable)
        if text:
            value = _split(text) if setting.is_list else text
            found[setting.name] = _checked(setting, value, setting.variable, from_text=True)
    return found


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Warnings only: the variable may belong to another program."""
    known = {setting.variable for setting in setting_list()} | {config_file.VARIABLE}
    warnings = []
    for name in sorted(set(environ) - known):
        if name.startswith(_PREFIX):
            near = difflib.get_close_matches(name, known, n=1)
            guess = f": did you mean {near[0]}?" if near else ""
            warnings.append(f"the variable {name} is unknown and has no effect{guess}")
    return warnings


def _from_flags(flags: Mapping[str, object]) -> dict[str, Value]:
    found = {}
    for setting in setting_list():
        value = flags.get(setting.name)
        if value is not None and value != ():
            source = setting.flag or setting.name.upper()
            found[setting.name] = _checked(setting, value, source, from_text=True)
    return found


def _from_key_file(path: Path, values: Mapping[str, Value]) -> dict[str, Value]:
    """The keys in *path*, one per line, and those of the flag; they replace lower layers' keys."""
    try:
        text = setting_type.expanded(path).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--api-key-file: {path} cannot be read: {error}") from error
    keys = [key for line in text.splitlines() if (key := line.strip()) and key[0] != "#"]
    if not keys:
        raise ConfigError(f"--api-key-file: {path} contains no key: put one on each line")
    setting = next(setting for setting in setting_list() if setting.name == "api_keys")
    if values["api_keys"].origin == setting.flag:
        keys += values["api_keys"].value
    return {"api_keys": _checked(setting, keys, f"--api-key-file {path}", from_text=True)}


def _shared(path: Path) -> list[str]:
    warning = config_file.warning_if_shared(setting_type.expanded(path))
    return [warning] if warning else []
