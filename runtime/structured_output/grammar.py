"""Translates a response format into a grammar of llguidance; compiles nothing."""

from __future__ import annotations

import re
import sys
from typing import Any

from llguidance import LLMatcher
from llguidance.gbnf_to_lark import gbnf_to_lark

from spillover.runtime.errors import ResponseFormatRefused
from spillover.runtime.request import Gbnf, JsonObject, JsonSchema, Lark, Regex, ResponseFormat
from spillover.runtime.structured_output import limits
from spillover.runtime.structured_output.deadline import DeadlinePassed, within
from spillover.runtime.structured_output.schema_rewrites import with_known_keywords

JSON_STYLE: dict[str, Any] = {
    "whitespace_flexible": False,
    "item_separator": ", ?",
    "key_separator": ": ?",
    "lenient": False,
}
"""One line, with or without a blank after a comma or colon. A weak model that may break lines
between two members does nothing else until it has used up its tokens."""

LOOSE_JSON_STYLE: dict[str, Any] = {
    "whitespace_flexible": True,
    "whitespace_pattern": r"[ \t\r\n]{1,64}",
    "lenient": False,
}
"""With the line breaks and indents that cloud models like to write."""

_CONVERSION_S = 2.0


def grammar_of(response_format: ResponseFormat, style: dict[str, Any] = JSON_STYLE) -> str:
    """Raises ResponseFormatRefused when *response_format* is too large or cannot be read."""
    overrides: Any = style  # llguidance's own type for it cannot be named
    match response_format:
        case JsonObject():
            return LLMatcher.grammar_from_json_schema({"type": "object"}, overrides=overrides)
        case JsonSchema():
            return LLMatcher.grammar_from_json_schema(
                clean_schema(response_format.schema, ResponseFormatRefused), overrides=overrides
            )
        case Regex():
            limits.check_text(
                response_format.pattern, limits.MAX_PATTERN_CHARS, ResponseFormatRefused
            )
            return LLMatcher.grammar_from_regex(response_format.pattern)
        case Lark():
            limits.check_text(
                response_format.grammar, limits.MAX_GRAMMAR_CHARS, ResponseFormatRefused
            )
            return LLMatcher.grammar_from_lark(response_format.grammar)
        case Gbnf():
            limits.check_text(
                response_format.grammar, limits.MAX_GRAMMAR_CHARS, ResponseFormatRefused
            )
            return LLMatcher.grammar_from_lark(_from_gbnf(response_format.grammar))


def clean_schema(schema: dict[str, Any], refuse: limits.Refuse) -> dict[str, Any]:
    """*schema* once it is checked, without llguidance's own settings: they are ours to make."""
    limits.check_schema(schema, refuse)
    return with_known_keywords(
        {name: value for name, value in schema.items() if name != "x-guidance"}
    )


def json_style() -> Any:
    """JSON_STYLE as llguidance's own type, which cannot be named."""
    return JSON_STYLE


def _from_gbnf(grammar: str) -> str:
    try:
        return within(_CONVERSION_S, lambda: gbnf_to_lark(_ESCAPE.sub(_as_character, grammar)))
    except DeadlinePassed as error:
        raise ResponseFormatRefused(f"reading the grammar was {error}") from error
    except Exception as error:  # the library raises nothing narrower
        raise ResponseFormatRefused(f"the grammar is not valid GBNF: {error}") from error


_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|.)", re.DOTALL)


def _as_character(escape: re.Match[str]) -> str:
    """The character of an escape by its number, from which the library drops leading zeros."""
    digits = escape[1] or escape[2]
    code = -1 if digits is None else int(digits, 16)
    if 0 <= code < 0x80:
        return f"\\x{code:02x}"
    is_character = code > 0 and code <= sys.maxunicode and not 0xD800 <= code < 0xE000
    return chr(code) if is_character else escape[0]
