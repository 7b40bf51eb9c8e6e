"""The table of rules, and what is the same for all of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from spillover.cloud_fallback.policy import rules
from spillover.cloud_fallback.policy.doubt import Doubt
from spillover.cloud_fallback.policy.observation import LocalModel, Observation, Policy
from spillover.cloud_fallback.policy.reason import CapacityCode, PromptCode, QualityCode, Reason
from spillover.cloud_fallback.policy.rules import RULES, Phase, Rule, RuleSet
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.policy.signals import Signals
from tests.cloud_fallback.policy.answers import asked, prose

SETTINGS = PolicySettings()


def observed(**request: object) -> Observation:
    asked_for = asked(**request)  # type: ignore[arg-type]
    return Observation(
        request=asked_for,
        settings=SETTINGS,
        local=LocalModel(),
        signals=Signals(asked_for, SETTINGS, 0.0),
        doubt=Doubt(SETTINGS),
    )


def found(values: list[bool], code: CapacityCode = "slow") -> Policy:
    """A policy that finds its reason where *values* say so."""
    coming = iter(values)
    return lambda _: Reason(code=code) if next(coming) else None


def use(
    monkeypatch: pytest.MonkeyPatch, *table: Rule, settings: PolicySettings = SETTINGS
) -> RuleSet:
    monkeypatch.setattr(rules, "RULES", table)
    return RuleSet(settings)


def codes(rule_set: RuleSet, n: int, phase: Phase = "window") -> list[str | None]:
    reasons = [rule_set.first_reason(phase, observed()) for _ in range(n)]
    return [None if reason is None else reason.code for reason in reasons]


def test_every_policy_code_has_a_rule() -> None:
    known = {*get_args(CapacityCode), *get_args(QualityCode), *get_args(PromptCode)}
    assert {rule.code for rule in RULES} == known


def test_every_policy_code_has_a_row_in_the_documentation() -> None:
    docs = Path(__file__).parents[3] / "docs" / "handoff-quality.md"
    table = docs.read_text("utf-8").partition("| reason |")[2].partition("\n\n")[0]
    shown = {
        code
        for row in table.splitlines()
        for code in re.findall(r"`(\w+)`", row[: row.find("|", 1)])
    }
    assert {rule.code for rule in RULES} <= shown


def test_a_code_has_one_rule_in_a_phase() -> None:
    assert len({(rule.code, rule.phase) for rule in RULES}) == len(RULES)


def test_a_rule_that_dwells_needs_its_reason_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = found([True, False, True, True, True])
    rule_set = use(monkeypatch, Rule("slow", "window", policy, dwell=lambda _: 2))
    assert codes(rule_set, 5) == [None, None, None, "slow", "slow"]


def test_a_rule_that_neither_matches_nor_resets_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = found([True, False, True, False, False])
    over = iter([False, False, True])
    rule = Rule("slow", "window", policy, dwell=lambda _: 2, is_over=lambda _: next(over))
    assert codes(use(monkeypatch, rule), 5) == [None, None, "slow", "slow", None]


def test_the_first_rule_of_a_phase_counts_unless_it_is_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = (
        Rule("slow", "after", found([True] * 9), hard=True),
        Rule("memory", "window", found([True] * 9, "memory")),
        Rule("slow", "window", found([True] * 9)),
    )
    assert codes(use(monkeypatch, *table), 1) == ["memory"]
    off = PolicySettings(switched_off=("memory",))
    assert codes(use(monkeypatch, *table, settings=off), 1) == ["slow"]


def test_only_hard_rules_count_in_the_tail_and_after_a_deferral(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = (
        Rule("memory", "window", found([True] * 9, "memory"), may_come=lambda _: True),
        Rule("slow", "window", found([True] * 9), hard=True),
    )
    rule_set = use(monkeypatch, *table)
    near_its_end = observed(max_tokens=10)
    for delta in prose(9):
        near_its_end.signals.see(delta, 0.0)
    reason = rule_set.first_reason("window", near_its_end)
    assert reason is not None
    assert (reason.code, reason.is_hard) == ("slow", True)
    assert codes(rule_set, 1) == ["memory"]
    assert rule_set.may_come(observed())
    rule_set.hard_only = True
    assert codes(rule_set, 1) == ["slow"]
    assert not rule_set.may_come(observed())
