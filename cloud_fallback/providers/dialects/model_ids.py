"""What a model's id tells about what the model takes.

Only what is known is said: a model that came later is treated as the newest ones are, which take
least. A wrong guess costs one answer with status 400, whose field is then left out.
"""

from __future__ import annotations

import re

_CLAUDE = re.compile(
    r"claude-(?:(?:opus|sonnet|haiku|instant|v)-?)?(\d{1,2})(?!\d)(?:[-.](\d{1,2})(?!\d))?"
)
_GEMINI_PREFILL = re.compile(
    r"(?:.*/)?(?:gemini-2\.|gemini-3-|gemini-3\.[01]-|gemini-3\.5-flash(?!-lite)|gemini-pro-latest)"
)
_GEMINI_SIGNED = re.compile(r"(?:.*/)?gemini-(?:[3-9]|\d\d)")

LAST_CLAUDE_WITH_PREFILL = (4, 5)
LAST_CLAUDE_WITH_SAMPLERS = (4, 6)


def is_claude(model: str) -> bool:
    return "claude" in model


def claude_version(model: str) -> tuple[int, int] | None:
    """(4, 5) for claude-sonnet-4-5-20250929, in any cloud's spelling; None when it is not known."""
    match = _CLAUDE.search(model)
    return (int(match[1]), int(match[2] or 0)) if match else None


def claude_continues(model: str) -> bool:
    """Whether *model* goes on with a trailing assistant turn; later ones answer 400."""
    version = claude_version(model)
    return version is not None and version <= LAST_CLAUDE_WITH_PREFILL


def claude_takes_samplers(model: str) -> bool:
    """Whether *model* takes temperature, top_p or top_k; later ones answer 400."""
    version = claude_version(model)
    return not is_claude(model) or (version is not None and version <= LAST_CLAUDE_WITH_SAMPLERS)


def claude_max_tokens(model: str) -> int:
    """The longest answer to ask of *model* when nobody said how long it may be: the interface
    wants a number, and refuses one that is above what the model can write."""
    version = claude_version(model) or (99, 0)
    if version < (3, 5):
        return 4_096
    if version < (3, 7):
        return 8_192
    return 32_000


def gemini_continues(model: str) -> bool:
    """Whether *model* goes on with a trailing model turn; others answer 400."""
    return _GEMINI_PREFILL.match(model) is not None


def gemini_signs_calls(model: str) -> bool:
    """Whether *model* refuses tool calls in the history without its own signature."""
    return _GEMINI_SIGNED.match(model) is not None
