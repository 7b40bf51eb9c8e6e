"""Finds what must never be continued: leaked template text, open thoughts, half tool calls."""

from __future__ import annotations

import re

from spillover.cloud_fallback.seam.markup import is_inside_inline_code, open_fence

_TAGS = (
    "<think>",
    "</think>",
    "<thinking>",
    "</thinking>",
    "<reasoning>",
    "</reasoning>",
    "<tool_call>",
    "</tool_call>",
    "<tool_calls>",
    "<function_call>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<<SYS>>",
    "<</SYS>>",
    "[INST]",
    "[/INST]",
    "[TOOL_CALLS]",
    "[AVAILABLE_TOOLS]",
    "[THINK]",
    "[/THINK]",
)
_CONTROL = r"<[|\uff5c][A-Za-z][\w\u2581 -]{0,40}[|\uff5c]>"
_LEAK = re.compile("|".join((_CONTROL, *map(re.escape, _TAGS))))
_OPEN_CONTROL = re.compile(r"<[|\uff5c][A-Za-z][\w\u2581]{0,40}[|\uff5c]?\Z")
_TOOL_CALL = re.compile(
    r"^[ \t]*(?:```(?:json)?\s*)?\[?\s*\{\s*\"(?:name|function|tool|tool_name)\"\s*:\s*[\"{]",
    re.MULTILINE,
)
_LONGEST_TAG = 48
MIN_OPEN_TAG_CHARS = 4


def holds_template_text(text: str) -> bool:
    """Whether *text* shows a chat template's control tokens, code included."""
    return _LEAK.search(text) is not None


def poison_start(text: str, *, has_tools: bool = False) -> int | None:
    """Where the first thing begins that must not be continued; None in a clean text.

    Tags shown as code are quoted, not leaked. *has_tools*: a JSON object that looks like a call
    is one.
    """
    for found in _LEAK.finditer(text):
        if not _is_quoted(text, found.start()):
            return found.start()
    call = _TOOL_CALL.search(text) if has_tools else None
    return call.start() if call else None


def _is_quoted(text: str, start: int) -> bool:
    before = text[:start]
    return is_inside_inline_code(before) or open_fence(before) is not None


def n_open_tag(text: str) -> int:
    """How many last characters of *text* may be the beginning of such a tag."""
    tail = text[-_LONGEST_TAG:]
    found = _OPEN_CONTROL.search(tail)
    n = len(tail) - found.start() if found else _n_open(tail)
    return 0 if n and _is_quoted(text, len(text) - n) else n


def _n_open(tail: str) -> int:
    for n in range(len(tail), MIN_OPEN_TAG_CHARS - 1, -1):
        if any(tag.startswith(tail[-n:]) for tag in _TAGS):
            return n
    return 0
