"""A Jinja environment for templates from model files, which are untrusted code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_VALUE_LENGTH = 1 << 20
"""No template may build a longer string or list in one operation."""

MAX_RANGE = 10_000
MAX_REFUSAL_CHARS = 500

_WIDE_METHODS = frozenset(
    {"center", "ljust", "rjust", "zfill", "expandtabs", "format_map", "format"}
)
_WIDE_FILTERS = ("center", "format", "wordwrap", "xmlattr", "urlize", "pprint")


class TemplateRefusal(Exception):
    """The template called raise_exception: it refuses the conversation."""


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """Without access to Python internals and without cheap ways to use much memory."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, GenerationBlock],
            cache_size=0,
        )
        self.globals["range"] = _range
        self.globals["raise_exception"] = _refuse
        self.globals["strftime_now"] = _strftime_now
        self.filters["tojson"] = _tojson
        for name in _WIDE_FILTERS:
            self.filters.pop(name, None)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" and (abs(left) > 1e6 or abs(right) > 64):
            raise SecurityError("the template computes too large a power")
        if operator == "%" and isinstance(left, str):
            raise SecurityError("the template formats a string with %")
        if operator == "*":
            _check_product(left, right)
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str) and attr in _WIDE_METHODS:
            return False
        return super().is_safe_attribute(obj, attr, value)


class GenerationBlock(Extension):
    """Hugging Face's {% generation %} marks the assistant's text for training; ignored here."""

    tags = {"generation"}  # noqa: RUF012  # the attribute's type is jinja's

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _check_product(left: Any, right: Any) -> None:
    for sequence, factor in ((left, right), (right, left)):
        too_long = isinstance(sequence, str | list | tuple) and isinstance(factor, int)
        if too_long and len(sequence) * factor > MAX_VALUE_LENGTH:
            raise SecurityError("the template builds too long a value")


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    if len(numbers) > MAX_RANGE:
        raise SecurityError(f"the template counts over more than {MAX_RANGE} numbers")
    return numbers


def _refuse(message: str) -> NoReturn:
    raise TemplateRefusal(str(message)[:MAX_REFUSAL_CHARS])


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(str(pattern)[:64])


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Like Hugging Face's: without HTML escapes."""
    width = None if indent is None else min(int(indent), 16)
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=width,
        separators=separators,
        sort_keys=sort_keys,
        default=_listed,
    )


def _listed(value: Any) -> list[Any]:
    """What filters such as map and select give."""
    if isinstance(value, Iterator):
        return list(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def compile_template(source: str) -> jinja2.Template:
    """The compiled template. Raises jinja2.TemplateError if it does not parse."""
    return TemplateSandbox().from_string(source)
