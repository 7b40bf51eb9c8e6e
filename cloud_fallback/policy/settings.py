"""Every threshold of the policies, and its default."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

from spillover.cloud_fallback.policy.reason import ReasonCode

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Count = Annotated[int, Meta(ge=0, le=1_000_000)]
Word: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]

MAX_RULES = 64


class PromptRule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prompts that never go to the local model: those with one of *words*, or with *pattern*.

    *words* match whole words in any case. *pattern* is in RE2's syntax, and its time is linear in
    the text.
    """

    name: Word
    words: Annotated[tuple[Word, ...], Meta(max_length=256)] = ()
    pattern: Annotated[str, Meta(max_length=1_024)] = ""
    whole_conversation: bool = False
    """Look at all messages of the user, not only the last."""


class PolicySettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a running answer is handed over.

    Quality is judged by P(wrong): the probability that the answer is wrong if the model has a
    calibration, else a value made of its raw confidence.
    """

    switched_off: tuple[ReasonCode, ...] = ()
    """Policies that never ask for a handoff."""
    handoff_rate_target: Annotated[float, Meta(gt=0.0, lt=1.0)] | None = None
    """Hand over about this share of the answers for their quality: the threshold of low confidence
    follows this device's own answers. With a calibration, an answer that is probably right stays
    local whatever the rate. None: the thresholds below."""

    # Capacity
    queue_s: Seconds = 20.0
    """Longest wait in the queue."""
    queue_length: Count = 16
    """Most requests that may wait ahead of one that has not begun."""
    first_token_s: Seconds = 30.0
    """Longest wait from leaving the queue to the first token."""
    decode_floor: Annotated[float, Meta(ge=0.0, le=10_000.0)] = 1.5
    """Fewest tokens per second, over the last 32 tokens."""
    stall_s: Seconds = 12.0
    """Longest silence in the middle of an answer."""
    least_room_tokens: Count = 64
    """Room in the context that a prompt must leave for the answer (or max_tokens, if less)."""
    memory_low: Share = 0.04
    """Share of the memory that is available."""
    memory_recovered: Share = 0.07
    temperature_high_c: Annotated[float, Meta(gt=0, le=150)] = 95.0
    """Of the processor; the sensor's own limit counts if it is lower."""
    temperature_recovered_c: Annotated[float, Meta(gt=0, le=150)] = 88.0
    frequency_low: Share = 0.5
    """Share of the processor's highest clock rate under load."""
    slowed_to: Share = 0.6
    """A low clock rate counts when decoding has slowed to this share of its best rate."""
    battery_low: Share = 0.1
    """Charge, while running on battery."""
    battery_recovered: Share = 0.15
    sensor_dwell: Annotated[int, Meta(ge=1, le=100)] = 2
    """Bad readings of a sensor in a row before it counts."""

    # Confidence
    p_wrong_hold: Share = 0.5
    """Text is held back from this P(wrong) on, until the doubt is settled."""
    p_wrong_enter: Share = 0.65
    p_wrong_forget: Share = 0.45
    confidence_dwell: Annotated[int, Meta(ge=1, le=100)] = 2
    """Windows in a row that must reach p_wrong_enter."""
    least_tokens: Count = 12
    """Tokens with a word in them before low confidence counts."""
    no_handoff_tail: Share = 0.1
    """Last part of max_tokens in which soft reasons no longer count."""
    raw_group_low: Annotated[float, Meta(le=0.0, ge=-100.0)] = -2.5
    """Without calibration: mean logprob of the least sure 16 tokens."""
    raw_quantile_low: Annotated[float, Meta(le=0.0, ge=-100.0)] = -6.0
    """Without calibration: 10 % quantile of the last 64 logprobs."""
    judges_short_answers: bool = True
    """Hand over a short answer with a high P(wrong) that ended while its text was held back."""

    # Holding back
    hold_tokens: Annotated[int, Meta(ge=0, le=1_024)] = 32
    """Most tokens kept back at a time; 0: never hold back."""
    hold_s: Seconds = 2.0

    # Text
    loop_tokens: Annotated[int, Meta(ge=8, le=4_096)] = 48
    """Tokens that an exact repetition must cover, with at least loop_copies copies."""
    loop_copies: Annotated[int, Meta(ge=2, le=100)] = 3
    near_loop_count: Annotated[int, Meta(ge=3, le=256)] = 9
    """How often the same four tokens come within 256."""
    foreign_letters: Annotated[int, Meta(ge=4, le=64)] = 16
    """How many of the last 64 letters are of a script that the conversation does not use."""
    refusal_chars: Annotated[int, Meta(ge=16, le=1_000)] = 160
    """A refusal is looked for in so many characters."""

    # Prompt
    rules: Annotated[tuple[PromptRule, ...], Meta(max_length=MAX_RULES)] = ()
    local_languages: Annotated[tuple[str, ...], Meta(max_length=64)] = ()
    """ISO 639-1 codes that the local model knows; empty: those of its calibration, else all."""
    local_tools: bool | None = None
    """Whether the local model can call tools; None: what its calibration says."""

    # After a handoff
    sticky_s: Seconds = 300.0
    """A conversation stays with its provider for so long after a handoff."""
    sticky_max_s: Seconds = 3_600.0
    """Longest stay of a conversation that is handed over repeatedly."""

    def is_on(self, code: ReasonCode) -> bool:
        return code not in self.switched_off
