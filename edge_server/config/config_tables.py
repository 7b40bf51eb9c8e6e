"""The tables of the configuration file: providers, policies, privacy, budgets."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from spillover.cloud_fallback.route.cloud_settings import CloudSettings
from spillover.edge_server.config import setting_type
from spillover.edge_server.config.model_settings import OPTION_NAMES, ModelSettings
from spillover.edge_server.config.setting_list import setting_list, table_list
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
    given = {f.encode_name: f.name for f in table_list() if f.encode_name in content}
    tables = {name: content.pop(name) for name in given}
    models = tables.pop(MODELS, None)
    _refuse_keys(tables.get("provider"), path)
    settings = _checked(_converted(tables, CloudSettings, path), path)
    found = {name: getattr(settings, given[name]) for name in tables}
    found["policy_given"] = frozenset(tables.get("policy", ()))
    if models is not None:
        found[MODELS] = _models(models, tables.get("policy", {}), settings, path)
    return found


MODELS = "local_model"
"""The table of models."""


class _Models(Struct, frozen=True):
    local_model: tuple[ModelSettings, ...]


def _models(
    tables: Any, policy: dict[str, Any], settings: CloudSettings, path: Path
) -> tuple[ModelSettings, ...]:
    """The tables of models; *policy* is the table for all of them. Raises ConfigError."""
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError(f"{path}: write [[{MODELS}]] above each model's settings")
    split = [_split(table, policy, path) for table in tables]
    models = _converted({MODELS: split}, _Models, path).local_model
    names = [name for model in models for name in (model.name, *model.aliases)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"{path}: {MODELS}: two models are called {twice!r}: rename one")
    for model in models:
        if model.pinned and model.keep_alive_s not in (None, -1):
            raise ConfigError(
                f"{path}: {MODELS}: {model.name!r} is pinned, so that it stays loaded, and has a "
                "keep_alive_s: leave one out"
            )
        _checked(model.cloud(settings), path)
    return models


def _split(table: dict[str, Any], policy: dict[str, Any], path: Path) -> dict[str, Any]:
    """*table* with its settings checked, in a table of their own."""
    known = {setting.name: setting for setting in setting_list() if setting.name in OPTION_NAMES}
    options = {}
    for name in table.keys() & known:
        setting = known[name]
        options[name] = setting_type.parse(
            table[name],
            setting.type,
            name=name,
            source=f"{path}: {MODELS}.{name}",
            from_text=False,
        )
    rest = {name: value for name, value in table.items() if name not in known}
    for name in ("options", "policy_given"):
        if name in rest:
            raise ConfigError(f"{path}: {MODELS}: there is no setting {name}")
    given = frozenset(policy)
    if isinstance(rest.get("policy"), dict):  # what else it is, the conversion refuses
        rest["policy"] = policy | rest["policy"]
        given = frozenset(rest["policy"])
    return {**rest, "options": options, "policy_given": given}


def _checked(settings: CloudSettings, path: Path) -> CloudSettings:
    try:
        return settings.checked()
    except InvalidRequest as error:
        raise ConfigError(f"{path}: {error.param}: {error}") from error


T = TypeVar("T", bound=Struct)


def _converted(tables: dict[str, Any], kind: type[T], path: Path) -> T:
    try:
        return msgspec.convert(tables, kind)
    except msgspec.ValidationError as error:
        message, found, place = str(error).rpartition(" - at `$.")
        if not found:
            raise ConfigError(f"{path}: {error}") from error
        place = place.rstrip("`")
        choice = ", ".join(allowed_values(kind, place))
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
