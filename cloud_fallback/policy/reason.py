"""Why another writer should continue an answer."""

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
"""The device cannot continue: the wait in the queue or for the first token is too long, decoding is
too slow, no context or KV cells are left, memory is low, the processor is hot or throttled, the
battery is low, or the worker has died."""

QualityCode: TypeAlias = Literal[
    "low_confidence", "repetition", "template_leak", "wrong_script", "empty", "schema", "refusal"
]
"""The answer is bad: unsure, in a loop, with control tokens in its text, in another script than
the question, empty, not in the response format, or a refusal."""

QUALITY: frozenset[str] = frozenset(get_args(QualityCode))

PromptCode: TypeAlias = Literal["rule", "tools", "language"]
"""The prompt is not for the local model: a rule says so, it has tools that the model cannot call,
or it is in a language that the model does not know."""

ReasonCode: TypeAlias = Literal[
    CapacityCode, QualityCode, PromptCode, "user", "network", "provider", "sticky"
]
"""All reasons. "network" and "provider" lead back to the local model: the cloud was not reached, or
a provider broke off."""

Verdict: TypeAlias = Literal["pass", "hold", "handoff"]
"""The verdict on the text so far: send it, hold it back while in doubt, or hand over."""


class Reason(Struct, frozen=True, kw_only=True):
    """Why an answer should be handed over, with the readings that led to it."""

    code: ReasonCode
    is_hard: bool = False
    """Copied from Rule.hard."""
    signals: dict[str, float] = {}
    """Readings and their thresholds, by name."""
    keep_chars: int | None = None
    """How many characters of this leg's text are good; None: all."""
