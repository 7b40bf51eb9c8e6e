"""The tables of the configuration file: providers, policies, privacy, budgets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from spillover.cloud_fallback.route.cloud_settings import CloudSettings
from spillover.edge_server.config.setting_list import table_list
from spillover.edge_server.errors import ConfigError
from spillover.runtime.checked import allowed_values
from spillover.runtime.errors import InvalidRequest


def names() -> str:
    """The tables as they are written: "[[provider]], [policy] and [budget]"."""
    *most, last = (
        f"[[{field.encode_name}]]" if field.default == () else f"[{field.encode_name}]"
        for field in table_list()
    )
    return f"{', '.join(most)} and {last}"


def take(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """Remove the tables from *content* and return their values by the tables' names.

    Raises ConfigError, which names the file, the table and the field.
    """
    tables = {f.encode_name: f.name for f in table_list() if f.encode_name in content}
    settings = _converted({name: content.pop(name) for name in tables}, path)
    try:
        settings.checked()
    except InvalidRequest as error:
        raise ConfigError(f"{path}: {error.param}: {error}") from error
    return {name: getattr(settings, field) for name, field in tables.items()}


def _converted(tables: dict[str, Any], path: Path) -> CloudSettings:
    _refuse_keys(tables.get("provider"), path)
    try:
        return msgspec.convert(tables, CloudSettings)
    except msgspec.ValidationError as error:
        message, found, place = str(error).rpartition(" - at `$.")
        if not found:
            raise ConfigError(f"{path}: {error}") from error
        place = place.rstrip("`")
        choice = ", ".join(allowed_values(CloudSettings, place))
        advice = f": it must be one of {choice}" if choice else ""
        where = place.replace("[...]", "")
        raise ConfigError(f"{path}: {where}: {message}{advice}") from error


def _refuse_keys(providers: Any, path: Path) -> None:
    """Configuration files are copied and shown around, so a key in one would leak."""
    for table in providers if isinstance(providers, list) else [providers]:
        for name in ("key", "api_key", "token") if isinstance(table, dict) else ():
            if name in table:
                raise ConfigError(
                    f"{path}: [[provider]] must not hold a key: run `spillover keys set "
                    f"{table.get('name', 'NAME')}`, or name its environment variable in "
                    "key_variable"
                )
