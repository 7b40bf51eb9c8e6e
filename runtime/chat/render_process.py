"""What runs in the process of a chat template that may need much memory or time."""

from __future__ import annotations

import functools
from typing import Any

import jinja2
from jinja2.exceptions import TemplateError

from spillover.runtime.chat.sandbox import TemplateRefusal, compile_template
from spillover.runtime.text.surrogates import valid_text

MAX_MEMORY_BYTES = 512 * 2**20

COMPILE_S = 10.0
"""Seconds of computing for reading the template."""

MAX_PROMPT_CHARS = 64 * 2**20
MAX_ERROR_CHARS = 500

RENDERED, REFUSED, FAILED = "rendered", "refused", "failed"

RENDER_ERRORS = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
    SyntaxError,
)
"""What a template can raise."""

_compiled = functools.lru_cache(1)(compile_template)


def rendered(source: str, values: dict[str, Any] | None) -> tuple[str, str]:
    """The outcome and its text. Without *values* the template is only compiled, for the calls that
    follow."""
    try:
        template = _compiled(source)
    except RENDER_ERRORS as error:
        return FAILED, _described(error)
    return (RENDERED, "") if values is None else outcome_of(template, values)


def outcome_of(template: jinja2.Template, values: dict[str, Any]) -> tuple[str, str]:
    """What comes of rendering *template*, and the text of that, valid whatever the template
    writes."""
    try:
        outcome, text = RENDERED, template.render(values)
        if len(text) > MAX_PROMPT_CHARS:
            outcome, text = FAILED, f"it renders {len(text)} characters"
    except TemplateRefusal as refusal:
        outcome, text = REFUSED, str(refusal)
    except RENDER_ERRORS as error:
        outcome, text = FAILED, _described(error)
    return outcome, valid_text(text)


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")[:MAX_ERROR_CHARS]
