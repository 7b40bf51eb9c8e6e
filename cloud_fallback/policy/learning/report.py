"""What `spillover calibrate` finds out about a model."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from spillover.cloud_fallback.policy.learning.calibrating import (
    LEAST_ITEMS,
    Measured,
    calibrate,
    halves_of_families,
    measure,
    random_halves,
)
from spillover.cloud_fallback.policy.learning.replay import Summary, replay, summary
from spillover.cloud_fallback.policy.learning.trace import Trace
from spillover.cloud_fallback.policy.learning.windows import CONFIDENCE_ONLY, Windows
from spillover.cloud_fallback.policy.observation import LocalModel
from spillover.cloud_fallback.policy.settings import PolicySettings


class Group(Struct, frozen=True, kw_only=True):
    """One family of prompts."""

    name: str
    n_items: int
    n_wrong: int


class Report(Struct, frozen=True, kw_only=True):
    """Measured on halves that the fit did not see; None: too few items, or families."""

    model: str
    n_items: int
    n_wrong: int
    notes: tuple[str, ...]
    random_half: Measured | None
    """The items are halved at random."""
    other_families: Measured | None
    """No family of prompts is in both halves: how well it works on prompts of another kind."""
    mixed_families: Measured | None
    """The random half again, but only the families with both right and wrong answers: what is
    left when knowing the family is of no help."""
    confidence_only: Measured | None
    """The random half again, from logprobs alone."""
    policy: Summary | None
    """What the policies with their thresholds do to the random half's held-out answers."""
    groups: tuple[Group, ...]


def report(
    model: str,
    traces: Sequence[Trace],
    items: Sequence[Windows],
    settings: PolicySettings,
    *,
    cloud_accuracy: float,
) -> Report:
    """Measure what a calibration of these answers is worth. Raises NotEnough."""
    train, test = random_halves(items)
    families = halves_of_families(items)
    enough = len(items) >= LEAST_ITEMS
    return Report(
        model=model,
        n_items=len(items),
        n_wrong=sum(item.wrong for item in items),
        notes=() if enough else (_too_few(len(items)),),
        random_half=measure(train, test, cloud_accuracy=cloud_accuracy) if enough else None,
        other_families=measure(*families, cloud_accuracy=cloud_accuracy)
        if enough and families
        else None,
        mixed_families=measure(train, _mixed(items, test)) if enough else None,
        confidence_only=measure(train, test, names=CONFIDENCE_ONLY) if enough else None,
        policy=_policy(traces, train, test, settings) if enough else None,
        groups=_groups(items),
    )


def _mixed(items: Sequence[Windows], test: Sequence[Windows]) -> list[Windows]:
    right = {item.group for item in items if not item.wrong}
    wrong = {item.group for item in items if item.wrong}
    return [item for item in test if item.group in right & wrong]


def _too_few(n: int) -> str:
    return (
        f"{n} labelled answers are too few to say how good the calibration is: "
        f"{LEAST_ITEMS} are needed for that, some hundreds are better"
    )


def _policy(
    traces: Sequence[Trace],
    train: Sequence[Windows],
    test: Sequence[Windows],
    settings: PolicySettings,
) -> Summary:
    fitted = calibrate(train, model="", fingerprint="", auroc=None)
    held_out = {item.id for item in test}
    local = LocalModel(calibration=fitted)
    return summary(replay(t, settings, local) for t in traces if t.id in held_out)


def _groups(items: Sequence[Windows]) -> tuple[Group, ...]:
    names = dict.fromkeys(item.group for item in items)
    return tuple(
        Group(
            name=name,
            n_items=sum(item.group == name for item in items),
            n_wrong=sum(item.wrong for item in items if item.group == name),
        )
        for name in names
    )
