"""Adds a [[provider]] table to the text of a configuration file, and takes one out, without
touching anything else in it.

The new text counts only if TOML reads from it exactly what was meant.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from datetime import date
from typing import Any

import msgspec

from spillover.edge_server.errors import ConfigError

_MARK = "# by spillover connect"
_HEADER = re.compile(r"^[ \t]*\[", re.M)
_TABLE = re.compile(r"^[ \t]*\[\[[ \t]*provider[ \t]*\]\][^\n]*\n?", re.M)


def with_fallback(text: str, fallback: str) -> str:
    """*text* with that value of `fallback`. Raises ConfigError."""
    line = f'fallback = "{fallback}"  {_MARK}'
    header = _HEADER.search(text)
    top = text[: header.start()] if header else text
    new_top, n = re.subn(r"^[ \t]*fallback[ \t]*=[^\n]*", line, top, flags=re.M)
    new = new_top + text[len(top) :] if n else f"{line}\n\n{text}".rstrip("\n") + "\n"
    return _checked(new, tomllib.loads(text) | {"fallback": fallback}, line)


def added(text: str, table: Mapping[str, Any]) -> str:
    """*text* with *table* as the last provider. Raises ConfigError where that cannot be done by
    adding lines."""
    meant = tomllib.loads(text)
    meant["provider"] = [*meant.get("provider", ()), dict(table)]
    new = text
    if new and not new.endswith("\n"):
        new += "\n"
    new += ("\n" if new else "") + as_toml(table)
    return _checked(new, meant, as_toml(table))


def removed(text: str, name: str) -> str:
    """*text* without the provider *name*; without the last one also without the line for `fallback`
    that added() put there. Raises ConfigError."""
    meant = tomllib.loads(text)
    meant["provider"] = [table for table in meant["provider"] if table.get("name") != name]
    new = text
    for start, end in _spans(text):
        if _read(text[start:end]).get("provider", [{}])[0].get("name") == name:
            new = f"{text[:start].rstrip()}\n\n{text[end:]}".strip() + "\n"
    if not meant["provider"]:
        del meant["provider"]
        new, n_lines = re.subn(rf"^fallback = .*{_MARK}\n\n?", "", new, flags=re.M)
        if n_lines:
            del meant["fallback"]
    return _checked(new.lstrip("\n") if new.strip() else "", meant, "")


def sets_fallback(text: str) -> bool:
    """Whether the file says when answers may be handed over."""
    return "fallback" in tomllib.loads(text)


def as_toml(table: Mapping[str, Any]) -> str:
    """A [[provider]] table."""
    lines = [f"{key} = {_value(value)}" for key, value in table.items()]
    return "\n".join(["[[provider]]", *lines, ""])


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, date):
        return value.isoformat()
    # TOML writes texts, numbers and Booleans as JSON does, but for one character.
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")


def _spans(text: str) -> list[tuple[int, int]]:
    """Where each [[provider]] table begins and ends, with the tables below it."""
    spans = []
    for table in _TABLE.finditer(text):
        ends = [
            other.start()
            for other in _HEADER.finditer(text, table.end())
            if not re.match(r"[ \t]*\[[ \t]*provider[ \t]*\.", text[other.start() :])
        ]
        spans.append((table.start(), min(ends, default=len(text))))
    return spans


def _read(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:  # a header within a text of several lines
        return {}


def _checked(new: str, meant: dict[str, Any], block: str) -> str:
    if _read(new) == meant:
        return new
    advice = f"add this by hand:\n\n{block}" if block else "remove it by hand"
    raise ConfigError(f"the configuration file cannot be changed safely: {advice}")
