"""Every threshold of the policies, and its default."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

from spillover.cloud_fallback.policy.reason import ReasonCode
from spillover.runtime.setting_help import Help

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Count = Annotated[int, Meta(ge=0, le=1_000_000)]
Celsius = Annotated[float, Meta(gt=0, le=150)]
Dwell = Annotated[int, Meta(ge=1, le=100)]
Word: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]

MAX_RULES = 64


class ModelFacts(Struct, frozen=True, kw_only=True):
    """What is published about a local model; () and None mean unknown."""

    languages: tuple[str, ...] = ()
    """ISO 639-1 codes."""
    can_call_tools: bool | None = None


NO_FACTS = ModelFacts()


class PromptRule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prompts that never go to the local model: those that contain one of *words* or match
    *pattern*.

    *words* match whole words in any case. *pattern* uses RE2's syntax and takes time linear in the
    text.
    """

    name: Word
    words: Annotated[tuple[Word, ...], Meta(max_length=256)] = ()
    pattern: Annotated[str, Meta(max_length=1_024)] = ""
    whole_conversation: bool = False
    """Look at all messages of the user, not only the last."""


class PolicySettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a running answer is handed over.

    Quality is judged by P(wrong), the probability that the answer is wrong, by the model's own
    calibration or else by the pooled one.
    """

    switched_off: Annotated[tuple[ReasonCode, ...], Help("Reasons to ignore.")] = ()
    handoff_rate_target: Annotated[
        Annotated[float, Meta(gt=0.0, lt=1.0)] | None,
        Help(
            "Most answers to hand over for their quality, as a share; "
            "none: for low confidence alone, half of them, or one in ten for a model that no "
            "calibration has seen."
        ),
    ] = None
    """It holds in any 40 answers in a row (or in 1/rate, if that is more), and from the first
    answer on. The threshold of low confidence follows this device's own answers, so that the most
    doubtful ones are handed over, and with a calibration none that is probably right. None: low
    confidence has the thresholds below and takes at most half of the answers, or one in ten where
    the level of P(wrong) is unknown; refusals, loops and other faults that the text shows have no
    limit."""

    # Capacity
    queue_s: Annotated[Seconds, Help("Longest wait in the queue, in seconds.")] = 20.0
    queue_length: Annotated[
        Count, Help("Most requests that may wait ahead of one that has not started.")
    ] = 16
    first_token_s: Annotated[
        Seconds, Help("Longest wait from the queue to the first token, in seconds.")
    ] = 30.0
    decode_floor: Annotated[
        float, Meta(ge=0.0, le=10_000.0), Help("Fewest tokens per second, over 32 tokens.")
    ] = 1.5
    stall_s: Annotated[Seconds, Help("Longest silence within an answer, in seconds.")] = 12.0
    least_room_tokens: Annotated[
        Count,
        Help("Tokens that a prompt must leave for the answer (or max_tokens, if less)."),
    ] = 64
    memory_low: Annotated[Share, Help("Share of memory still available that is too low.")] = 0.04
    memory_recovered: Annotated[Share, Help("Share that is high enough again.")] = 0.07
    temperature_high_c: Annotated[
        Celsius,
        Help("Processor temperature (°C) that is too high, unless the sensor has a lower limit."),
    ] = 95.0
    temperature_recovered_c: Annotated[
        Celsius, Help("Processor temperature (°C) that is low enough again.")
    ] = 88.0
    frequency_low: Annotated[
        Share, Help("Share of the highest clock rate that is too low under load.")
    ] = 0.5
    slowed_to: Annotated[
        Share,
        Help("A low clock rate counts once decoding has slowed to this share of its best rate."),
    ] = 0.6
    battery_low: Annotated[Share, Help("Charge that is too low, while on battery.")] = 0.1
    battery_recovered: Annotated[Share, Help("Charge that is high enough again.")] = 0.15
    sensor_dwell: Annotated[Dwell, Help("Consecutive sensor readings that must agree.")] = 2

    # Confidence
    p_wrong_hold: Annotated[
        Share, Help("P(wrong) at which text is held back until the doubt is settled.")
    ] = 0.75
    p_wrong_enter: Annotated[Share, Help("P(wrong) at which the answer is handed over.")] = 0.87
    p_wrong_forget: Annotated[Share, Help("P(wrong) below which doubts are dropped.")] = 0.7
    confidence_dwell: Annotated[
        Dwell, Help("Consecutive windows that must reach p_wrong_enter.")
    ] = 2
    least_tokens: Annotated[
        Count, Help("Tokens with words in them before low confidence counts.")
    ] = 12
    no_handoff_tail: Annotated[
        Share, Help("Last part of max_tokens, in which soft reasons no longer count.")
    ] = 0.1
    judges_short_answers: Annotated[
        bool,
        Help("Whether to judge an answer that ended while all of its text was held back."),
    ] = True

    # Holding back
    hold_tokens: Annotated[
        int, Meta(ge=0, le=1_024), Help("Most tokens held back at a time; 0 holds nothing back.")
    ] = 32
    hold_s: Annotated[Seconds, Help("Longest time that text is held back, in seconds.")] = 2.0

    # Text
    loop_tokens: Annotated[
        int, Meta(ge=8, le=4_096), Help("Tokens that an exact repetition must cover.")
    ] = 48
    loop_copies: Annotated[
        int, Meta(ge=2, le=100), Help("Copies that an exact repetition must have.")
    ] = 3
    near_loop_count: Annotated[
        int,
        Meta(ge=3, le=256),
        Help("Occurrences of the same four tokens within 256 tokens that make a loop."),
    ] = 9
    foreign_letters: Annotated[
        int,
        Meta(ge=4, le=64),
        Help("Letters, of the last 64, in a script that the conversation does not use."),
    ] = 16
    refusal_chars: Annotated[
        int, Meta(ge=16, le=1_000), Help("Characters within which a refusal is recognized.")
    ] = 160

    # Prompt
    rules: Annotated[
        tuple[PromptRule, ...],
        Meta(max_length=MAX_RULES),
        Help("Prompts that the local model never answers; see below."),
    ] = ()
    local_languages: Annotated[
        tuple[Annotated[str, Meta(pattern="^[a-z]{2,3}$")], ...],
        Meta(max_length=64),
        Help(
            "ISO 639-1 codes that the local model knows; empty: as its calibration says, or else "
            "the catalogue."
        ),
    ] = ()
    """Where neither says so, all."""
    local_tools: Annotated[
        bool | None,
        Help(
            "Whether the local model can call tools; none: as its calibration says, or else the "
            "catalogue."
        ),
    ] = None

    # After a handoff
    sticky_s: Annotated[
        Seconds, Help("Seconds that a conversation stays with its provider after a handoff.")
    ] = 300.0
    sticky_max_s: Annotated[
        Seconds, Help("Longest stay of a conversation that is handed over repeatedly, in seconds.")
    ] = 3_600.0

    def is_on(self, code: ReasonCode) -> bool:
        return code not in self.switched_off
