"""The types of settings: they turn text into values, and values into words for people."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from spillover.edge_server.errors import ConfigError

AUTO = "auto"
"""How a user writes None: chosen from the model and the device."""
HIDDEN = "********"
"""Shown in place of a secret."""

_USER = re.compile(r"//[^/\s]*@")
"""The user, with the password, of an address."""


def parse(
    value: object,
    annotation: Any,
    *,
    name: str,
    source: str,
    from_text: bool,
    is_secret: bool = False,
) -> Any:
    """*value*, given by *source* for the setting *name*, as the type *annotation*; *from_text*
    also reads numbers, true and false from text.

    Raises ConfigError, which names source, value and what is allowed.
    """
    try:
        return _convert(value, annotation, from_text=from_text)
    except ValueError:
        given = HIDDEN if is_secret else _USER.sub("//", repr(value))
        raise ConfigError(
            f"{source}: {given} is not allowed: {name} must be {describe(annotation)}"
        ) from None


def _convert(value: object, annotation: Any, *, from_text: bool) -> Any:
    if value == AUTO and _optional(annotation):
        return None
    try:
        found = msgspec.convert(value, annotation, strict=not from_text, dec_hook=_path)
    except msgspec.ValidationError:
        raise ValueError from None
    if isinstance(found, float) and not math.isfinite(found):
        raise ValueError
    return found


def describe(annotation: Any) -> str:
    """The values that the type takes: "an integer from 0 to 65535"."""
    return _words(inspect.type_info(annotation))


def show(value: object) -> str:
    """A value as `spillover config` prints it."""
    if value is None:
        return AUTO
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return _shown(value)


def _shown(item: object) -> str:
    """One value; a text that is more than a line is written as in the configuration file."""
    text = str(item)
    return text if text.isprintable() else json.dumps(text, ensure_ascii=False)


def _path(annotation: type, value: object) -> Path:
    if annotation is not Path:
        raise NotImplementedError
    if not isinstance(value, str):
        raise ValueError
    return expanded(value)


def expanded(path: str | Path) -> Path:
    """*path* with ~ as the user's home folder; that of a user whom nobody knows stays as it is."""
    return Path(os.path.expanduser(path))  # Path's own raises for ~nobody


def _optional(annotation: Any) -> bool:
    found = inspect.type_info(annotation)
    return isinstance(found, inspect.UnionType) and found.includes_none


def _words(found: inspect.Type) -> str:
    match found:
        case inspect.Metadata(extra_json_schema={"description": description}):
            return str(description)
        case inspect.UnionType(types=types):
            named = [_words(one) for one in types if not isinstance(one, inspect.NoneType)]
            joint = ", " if named[-1].startswith("one of ") else " or "
            return " or ".join(named) + f"{joint}{AUTO}" * found.includes_none
        case inspect.LiteralType(values=values):
            return "one of " + ", ".join(map(str, values))
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return "an integer" + _range(found)
        case inspect.FloatType():
            return "a number" + _range(found)
        case inspect.StrType():
            return "text" + _length(found)
        case inspect.VarTupleType(item_type=inspect.StrType() as item):
            return "a list of texts" + _length(item)
        case inspect.CustomType():
            return "a path"
    return "something else"


def _range(found: inspect.IntType | inspect.FloatType) -> str:
    if found.gt is not None:
        return f" above {found.gt}" + (f", at most {found.le}" if found.le is not None else "")
    if found.ge is None:
        return ""
    return f" from {found.ge} to {found.le}" if found.le is not None else f", at least {found.ge}"


def _length(found: inspect.StrType) -> str:
    if not found.min_length:
        return ""
    return f" of {found.min_length} to {found.max_length} characters"
