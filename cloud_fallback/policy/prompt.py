"""Policies about the prompt: the user's own rules, tools, and the language."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from spillover.cloud_fallback.policy.observation import Observation
from spillover.cloud_fallback.policy.reason import Reason
from spillover.cloud_fallback.policy.settings import PolicySettings, PromptRule
from spillover.cloud_fallback.re2_patterns import compile_pattern, escape_pattern
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.request import Message
from spillover.runtime.text.languages import is_covered

_MAX_CHARS = 200_000
"""The rules examine this many characters at the end of the prompts."""


def matches_rule(observation: Observation) -> Reason | None:
    """One of the user's rules keeps this prompt from the local model."""
    index = first_match(observation.settings.rules, observation.request.messages)
    return None if index is None else Reason(code="rule", signals={"rule": index})


def tools_unusable(observation: Observation) -> Reason | None:
    """The request has tools, and the local model is known not to call tools."""
    request, wanted = observation.request, observation.settings.local_tools
    if not request.tools or request.tool_choice == "none":
        return None
    can_call = observation.local.can_call_tools if wanted is None else wanted
    if can_call is not False:
        return None
    return Reason(code="tools", signals={"n_tools": float(len(request.tools))})


def language_unknown(observation: Observation) -> Reason | None:
    """The user's last message is in a language that the local model is known not to speak."""
    known = observation.settings.local_languages or observation.local.languages
    texts = _user_texts(observation.request.messages)
    if not known or not texts or is_covered(texts[-1], known):
        return None
    return Reason(code="language")


def first_match(rules: Sequence[PromptRule], messages: Sequence[Message]) -> int | None:
    """The index of the first rule that matches the user's messages."""
    if not rules:
        return None
    texts = _user_texts(messages)
    last = texts[-1][-_MAX_CHARS:] if texts else ""
    whole = "\n".join(texts)[-_MAX_CHARS:]
    for index, rule in enumerate(rules):
        text = whole if rule.whole_conversation else last
        if any(pattern.search(text) for pattern in _patterns(rule, index)):
            return index
    return None


def check_rules(settings: PolicySettings) -> None:
    """Raise an InvalidRequest that names the first rule with an invalid pattern, or without any."""
    for index, rule in enumerate(settings.rules):
        if not _patterns(rule, index):
            message = f"the rule {rule.name!r} matches nothing: give it words or a pattern"
            raise InvalidRequest(message, f"rules[{index}]")


def _user_texts(messages: Sequence[Message]) -> list[str]:
    return [message.content for message in messages if message.role == "user"]


@lru_cache(maxsize=256)
def _patterns(rule: PromptRule, index: int) -> tuple[Any, ...]:
    patterns = []
    if rule.words:
        # RE2's \b knows only ASCII letters.
        words = "|".join(map(escape_pattern, rule.words))
        patterns.append(rf"(?i)(?:^|[^\pL\pN_])(?:{words})(?:[^\pL\pN_]|$)")
    if rule.pattern:
        patterns.append(rule.pattern)
    what, param = f"the pattern of the rule {rule.name!r}", f"rules[{index}].pattern"
    return tuple(compile_pattern(pattern, what, param) for pattern in patterns)
