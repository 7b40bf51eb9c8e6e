"""How large a form may be: it comes from outside, and it is compiled beside running answers."""

from __future__ import annotations

from typing import Any

import msgspec

from spillover.runtime.errors import InvalidRequest

MAX_SCHEMA_BYTES = 1 << 18
MAX_SCHEMA_DEPTH = 48
"""llguidance's own reader gives up at about 60."""
MAX_SCHEMA_NODES = 20_000
"""Objects, arrays and values in a schema."""
MAX_GRAMMAR_CHARS = 1 << 17
MAX_PATTERN_CHARS = 8_192


def check_schema(schema: dict[str, Any], field: str) -> None:
    """InvalidRequest when *schema* is larger or deeper than any that is worth compiling."""
    n_left = MAX_SCHEMA_NODES
    level: list[Any] = [schema]
    for _ in range(MAX_SCHEMA_DEPTH):
        n_left -= len(level)
        if n_left < 0:
            raise InvalidRequest(f"it has more than {MAX_SCHEMA_NODES} values", field)
        level = [inner for value in level for inner in _inside(value)]
        if not level:
            break
    else:
        raise InvalidRequest(f"it is nested more than {MAX_SCHEMA_DEPTH} levels deep", field)
    if len(msgspec.json.encode(schema)) > MAX_SCHEMA_BYTES:
        raise InvalidRequest(f"it is larger than {MAX_SCHEMA_BYTES} bytes", field)


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def check_text(text: str, n_most: int, field: str) -> None:
    """InvalidRequest when *text* is empty or longer than *n_most* characters."""
    if not text.strip():
        raise InvalidRequest("it is empty", field)
    if len(text) > n_most:
        raise InvalidRequest(f"it has {len(text)} characters, and {n_most} is the limit", field)
