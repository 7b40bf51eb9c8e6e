"""All policies, one row each, and the way the rows of a phase are applied.

To add a policy, write a pure function of an Observation in prompt.py, capacity.py or quality.py,
and add a row to RULES. A threshold is a field of PolicySettings, a new code one of ReasonCode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, TypeAlias, get_args

import msgspec
from msgspec import Struct

from spillover.cloud_fallback.policy import capacity, prompt, quality
from spillover.cloud_fallback.policy.observation import Observation, Policy, Predicate
from spillover.cloud_fallback.policy.reason import QUALITY, Reason, ReasonCode
from spillover.cloud_fallback.policy.settings import PolicySettings

Phase: TypeAlias = Literal["before", "accepted", "text", "window", "silent", "sensors", "after"]
"""When a rule is applied: before the answer begins; when the engine has accepted the request and
knows the length of its prompt; at each piece of text; every few tokens; after a silence; at each
reading of the sensors; after the answer's end."""
_PHASES_WITH_TAIL: tuple[Phase, ...] = ("text", "window", "sensors")


class Rule(Struct, frozen=True, eq=False):
    """*policy* gives reasons of *code* in *phase*."""

    code: ReasonCode
    phase: Phase
    policy: Policy
    hard: bool = False
    """The local model cannot or must not continue: the reason does not wait for the end of a
    sentence or a turn, and still counts near the end of max_tokens."""
    dwell: Callable[[Observation], float] | None = None
    """How many times in a row the policy must find its reason; None: once."""
    is_over: Predicate | None = None
    """When to start counting again. If the policy finds nothing and this is false, the count is
    kept. None: whenever the policy finds nothing."""
    may_come: Predicate | None = None
    """Whether the reason may be about to come, so that text is held back."""


def _readings(observation: Observation) -> int:
    return observation.settings.sensor_dwell


RULES: tuple[Rule, ...] = (
    Rule("rule", "before", prompt.matches_rule, hard=True),
    Rule("crash", "before", capacity.worker_gone, hard=True),
    Rule("tools", "before", prompt.tools_unusable, hard=True),
    Rule("language", "before", prompt.language_unknown, hard=True),
    Rule("queue", "before", capacity.queue_too_long),
    Rule("memory", "before", capacity.memory_low),
    Rule("thermal", "before", capacity.processor_hot),
    Rule("battery", "before", capacity.battery_low),
    Rule("context", "accepted", capacity.prompt_too_long, hard=True),
    Rule("kv_full", "accepted", capacity.kv_cache_full),
    Rule("template_leak", "text", quality.leaks_template, hard=True, may_come=quality.may_leak),
    Rule("schema", "text", quality.breaks_json, hard=True),
    Rule("repetition", "text", quality.repeats_itself, hard=True),
    Rule("wrong_script", "text", quality.in_wrong_script, hard=True),
    Rule("refusal", "text", quality.refuses, hard=True, may_come=quality.may_refuse),
    Rule(
        "low_confidence",
        "window",
        quality.is_unsure,
        dwell=quality.unsure_dwell,
        is_over=quality.is_sure_again,
        may_come=quality.is_in_doubt,
    ),
    Rule("slow", "window", capacity.decodes_slowly, dwell=lambda _: 2),
    # A model that writes nothing ends no sentence and no turn.
    *(Rule(code, "silent", capacity.waits_too_long(code), hard=True) for code in capacity.WAITS),
    Rule("memory", "sensors", capacity.memory_low, dwell=_readings, is_over=capacity.memory_free),
    Rule("thermal", "sensors", capacity.processor_hot, dwell=_readings, is_over=capacity.cooled),
    Rule("battery", "sensors", capacity.battery_low, dwell=_readings, is_over=capacity.charged),
    Rule("throttled", "sensors", capacity.processor_throttled),
    Rule("context", "after", capacity.out_of_context, hard=True),
    Rule("empty", "after", quality.says_nothing, hard=True),
    Rule("no_answer", "after", quality.only_reasons, hard=True),
    Rule("schema", "after", quality.misses_json, hard=True),
    Rule("low_confidence", "after", quality.was_unsure),
)
"""If several rules of a phase find a reason, the first counts."""


class RuleSet:
    """The enabled rules of one local leg, and how often in a row each has found its reason. Quality
    is judged only in answers with one choice.

    Two threads may apply the rules of different phases at the same time.
    """

    def __init__(self, settings: PolicySettings, *, n_choices: int = 1) -> None:
        self._in_a_row: dict[Rule, tuple[int, Reason]] = {}
        self.hard_only = False
        """Soft reasons have to wait: from now on only hard rules count."""
        self._apply(
            rule
            for rule in RULES
            if settings.is_on(rule.code) and (n_choices == 1 or rule.code not in QUALITY)
        )

    def _apply(self, rules: Iterable[Rule]) -> None:
        self._all = tuple(rules)
        self._rules: dict[Phase, tuple[Rule, ...]] = {}
        self._hard: dict[Phase, tuple[Rule, ...]] = {}
        for phase in get_args(Phase):
            in_phase = tuple(rule for rule in self._all if rule.phase == phase)
            hard = tuple(rule for rule in in_phase if rule.hard)
            self._rules[phase] = in_phase
            self._hard[phase] = in_phase if hard == in_phase else hard
        self._may_come = [(rule.may_come, rule.hard) for rule in self._all if rule.may_come]

    def drop(self, codes: frozenset[str]) -> None:
        """Reasons of these codes count no longer."""
        self._apply(rule for rule in self._all if rule.code not in codes)

    def codes(self, phase: Phase) -> frozenset[str]:
        """The reasons that may be found in *phase*."""
        return frozenset(rule.code for rule in self._rules[phase])

    def first_reason(self, phase: Phase, observation: Observation) -> Reason | None:
        """The first reason that counts now."""
        rules, hard = self._rules[phase], self._hard[phase]
        if rules is not hard and (
            self.hard_only or (phase in _PHASES_WITH_TAIL and _in_tail(observation))
        ):
            rules = hard
        for rule in rules:
            reason = rule.policy(observation)
            if rule.dwell is not None:
                reason = self._in_a_row_long_enough(rule, reason, observation)
            if reason is not None:
                assert reason.code == rule.code, "a policy gives reasons of its rule's code"
                return msgspec.structs.replace(reason, is_hard=True) if rule.hard else reason
        return None

    def _in_a_row_long_enough(
        self, rule: Rule, reason: Reason | None, observation: Observation
    ) -> Reason | None:
        n, last = self._in_a_row.get(rule, (0, None))
        if reason is not None:
            n, last = n + 1, reason
            self._in_a_row[rule] = n, last
        elif rule.is_over is None or rule.is_over(observation):
            self._in_a_row.pop(rule, None)
            return None
        return last if rule.dwell is None or n >= rule.dwell(observation) else None

    def may_come(self, observation: Observation) -> bool:
        """Whether a reason may be about to come, so that text should be held back."""
        for may_come, hard in self._may_come:
            if may_come(observation) and (hard or not self.hard_only):
                return True
        return False


def _in_tail(observation: Observation) -> bool:
    """Whether the answer is so near the end of max_tokens that soft reasons no longer count."""
    most, tail = observation.request.max_tokens, observation.settings.no_handoff_tail
    return most is not None and observation.signals.n_tokens >= most * (1.0 - tail)
