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

STRAIN: frozenset[str] = frozenset(
    ("queue", "ttft", "slow", "kv_full", "memory", "thermal", "throttled", "battery")
)
"""Those of a device that is busy, or short of memory or power. They pass, so what nobody waits for
is not handed over because of them; "context" and "crash" do not."""

QualityCode: TypeAlias = Literal[
    "low_confidence",
    "repetition",
    "template_leak",
    "wrong_script",
    "empty",
    "no_answer",
    "schema",
    "refusal",
]
"""The answer is bad: unsure, in a loop, with control tokens in its text, in another script than
the question, empty, nothing but reasoning, not in the response format, or a refusal."""

QUALITY: frozenset[str] = frozenset(get_args(QualityCode))

PromptCode: TypeAlias = Literal["rule", "tools", "language"]
"""The prompt is not for the local model: a rule says so, it has tools that the model cannot call,
or it is in a language that the model does not know."""

ReasonCode: TypeAlias = Literal[
    CapacityCode, QualityCode, PromptCode, "modality", "user", "network", "provider", "sticky"
]
"""All reasons. "modality": the local model refuses images. "network" and "provider" lead back to
the local model: the cloud was not reached, or a provider broke off."""

IN_WORDS: dict[str, str] = {
    "queue": "too many requests wait for the local model",
    "ttft": "the local model took too long to begin",
    "slow": "the local model writes too slowly",
    "context": "the conversation is too long for the local model",
    "kv_full": "the local model has no memory left for this conversation",
    "memory": "this device is short of memory",
    "thermal": "the processor is too hot",
    "throttled": "the processor has been slowed down",
    "battery": "the battery is low",
    "crash": "the local model has crashed or hangs",
    "low_confidence": "the local model is unsure",
    "repetition": "the local model repeats itself",
    "template_leak": "the local model has lost the format of a chat",
    "wrong_script": "the local model has changed to another script",
    "empty": "the local model has written nothing",
    "no_answer": "the local model has reasoned without coming to an answer",
    "schema": "the local model does not keep to the response format",
    "refusal": "the local model refuses",
    "rule": "one of your rules says so",
    "tools": "the local model cannot call tools",
    "language": "the local model does not know this language",
    "modality": "the local model does not see images",
    "user": "as you asked",
    "network": "the provider was not reached, or the connection broke",
    "provider": "the provider did not finish",
    "sticky": "this conversation went to the cloud a moment ago",
}
"""What people read instead of a code."""


def in_words(code: str) -> str:
    """The reason *code* as people read it; an unknown one as it is."""
    return IN_WORDS.get(code, code)


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
