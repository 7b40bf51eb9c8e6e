"""JSON as another writer may have spelled it."""

from __future__ import annotations

import json
import re

_ESCAPES = re.compile(r"(?:\\u[0-9a-fA-F]{4})+|\\.", re.DOTALL)


def spelled_out(begun: str) -> str:
    """*begun*, the beginning of a JSON text, with the same characters in the one spelling that a
    grammar knows: \\u00e9 as the letter, \\/ as a slash. An escape that is cut stays as it is."""
    return _ESCAPES.sub(lambda found: _spelled(found[0]), begun)


def _spelled(escapes: str) -> str:
    try:
        text = json.loads(f'"{escapes}"')
    except ValueError:
        return escapes
    if any("\ud800" <= character <= "\udfff" for character in text):
        return escapes  # half a pair
    return json.dumps(text, ensure_ascii=False)[1:-1]
