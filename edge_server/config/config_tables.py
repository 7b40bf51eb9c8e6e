"""The tables of the configuration file: providers, policies, privacy, budgets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from spillover.cloud_fallback.route.cloud_settings import CloudSettings
from spillover.edge_server.config.setting_list import table_list
from spillover.edge_server.errors import ConfigError
from spillover.runtime.errors import InvalidRequest

_STEP = re.compile(r"\.(\w+)|\[")


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
        choice = ", ".join(_allowed_values(place))
        advice = f": it must be one of {choice}" if choice else ""
        where = place.replace("[...]", "")
        raise ConfigError(f"{path}: {where}: {message}{advice}") from error


def _allowed_values(place: str) -> tuple[str, ...]:
    """The words allowed at *place*, as msgspec writes it ("policy.switched_off[0]"); nothing where
    it is not a choice between words."""
    found: inspect.Type | None = inspect.type_info(CloudSettings)
    for step in _STEP.finditer(f".{place}"):
        found = _inside(_plain(found), step[1])
    kinds = found.types if isinstance(found, inspect.UnionType) else (found,)
    choices = [kind.values for kind in kinds if isinstance(kind, inspect.LiteralType)]
    return tuple(sorted(str(value) for values in choices for value in values))


def _inside(kind: inspect.Type | None, name: str | None) -> inspect.Type | None:
    """The type of the field *name*; None: of an item."""
    match kind:
        case inspect.StructType():
            return next((f.type for f in kind.fields if f.encode_name == name), None)
        case inspect.VarTupleType() | inspect.ListType():
            return kind.item_type
        case inspect.DictType():
            return kind.value_type
    return None


def _plain(kind: inspect.Type | None) -> inspect.Type | None:
    """*kind* without None and without metadata."""
    if isinstance(kind, inspect.Metadata):
        return _plain(kind.type)
    if isinstance(kind, inspect.UnionType):
        return _plain(next(t for t in kind.types if not isinstance(t, inspect.NoneType)))
    return kind


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
