"""Why an answer should go on elsewhere."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from msgspec import Struct

CapacityCode: TypeAlias = Literal[
    "queue",
    "ttft",
    "slow",
    "context",
    "kv_full",
    "memory",
    "thermal",
    "throttled",
    "battery",
    "crash",
]
"""The device cannot: it waits too long in the queue or for the first token, decodes too slowly,
has no context or KV cells left, little memory, a hot or throttled processor, a low battery, or
the worker has died."""

QualityCode: TypeAlias = Literal[
    "low_confidence",
    "repetition",
    "template_leak",
    "wrong_script",
    "empty",
    "schema",
    "refusal",
]
"""The answer is no good: unsure, in a loop, with control tokens in its text, in another script
than the question, empty, not in the form that was asked for, or a refusal."""

QUALITY: frozenset[str] = frozenset(get_args(QualityCode))

PromptCode: TypeAlias = Literal["rule", "tools", "language"]
"""The prompt is not for the local model: a rule of the user's, tools that it cannot call, a
language that it does not know."""

ReasonCode: TypeAlias = (
    CapacityCode | QualityCode | PromptCode | Literal["user", "network", "provider", "sticky"]
)
"""All reasons; "network" and "provider" are those of the way back: the cloud was not reached, or
its provider broke off."""

Verdict: TypeAlias = Literal["pass", "hold", "handoff"]
"""About the text so far: send it; keep it back while in doubt; let another writer go on."""


class Reason(Struct, frozen=True, kw_only=True):
    """One policy's wish for a handoff, with the readings that led to it."""

    code: ReasonCode
    is_hard: bool = False
    """The local model cannot go on, or must not: no dwell, no least number of tokens."""
    signals: dict[str, float] = {}
    """Readings and the thresholds they passed, by name."""
    keep_chars: int | None = None
    """How many characters of this leg's text are good; None: all of it."""
