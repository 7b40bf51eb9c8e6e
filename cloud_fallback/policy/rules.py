"""The user's own rules: prompts that are never for the local model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import re2

from spillover.cloud_fallback.policy.settings import PolicySettings, Rule
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.request import Message

_MAX_CHARS = 200_000
"""Characters of the prompts that rules look at: the last ones."""
_MAX_MEMORY_BYTES = 1 << 20


def first_match(rules: Sequence[Rule], messages: Sequence[Message]) -> int | None:
    """The place of the first rule that a user's message matches.

    RE2 needs time in proportion to the text whatever the pattern is, so no rule can hang.
    """
    if not rules:
        return None
    texts = [message.content for message in messages if message.role == "user"]
    last = texts[-1][-_MAX_CHARS:] if texts else ""
    whole = "\n".join(texts)[-_MAX_CHARS:]
    for place, rule in enumerate(rules):
        text = whole if rule.whole_conversation else last
        if any(pattern.search(text) for pattern in _patterns(rule)):
            return place
    return None


def check(settings: PolicySettings) -> None:
    """InvalidRequest names the first rule whose pattern is not one."""
    for place, rule in enumerate(settings.rules):
        try:
            _patterns(rule)
        except re2.error as error:
            text = error.args[0] if error.args else error
            text = text.decode(errors="replace") if isinstance(text, bytes) else text
            raise InvalidRequest(
                f"the pattern of the rule {rule.name!r} is none for RE2: {text}",
                f"rules[{place}].pattern",
            ) from error


@lru_cache(maxsize=256)
def _patterns(rule: Rule) -> tuple[Any, ...]:
    options = re2.Options()
    options.max_mem = _MAX_MEMORY_BYTES
    options.log_errors = False
    found = []
    if rule.words:
        # RE2's \b knows ASCII letters only.
        words = "|".join(re2.escape(word) for word in rule.words)
        found.append(re2.compile(rf"(?i)(?:^|[^\pL\pN_])(?:{words})(?:[^\pL\pN_]|$)", options))
    if rule.pattern:
        found.append(re2.compile(rule.pattern, options))
    return tuple(found)
