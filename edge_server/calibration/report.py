"""What `spillover calibrate` finds out about a model, measured on held-out answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import msgspec
import numpy as np
from msgspec import Struct

from spillover.cloud_fallback.policy.observation import LocalModel
from spillover.cloud_fallback.policy.reason import CapacityCode
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.edge_server.calibration import measures
from spillover.edge_server.calibration.fit import (
    CONFIDENCE_ONLY,
    FITTED,
    POOLED,
    Windows,
    calibrate,
    name_hash,
)
from spillover.edge_server.calibration.measures import CurvePoint
from spillover.edge_server.calibration.replay import Summary, replay, summary
from spillover.edge_server.calibration.trace import Trace

MIN_ITEMS = 100
"""Fewer labelled answers say too little for an AUROC."""


class Measured(Struct, frozen=True, kw_only=True):
    """P(wrong) of held-out answers against their labels."""

    n_items: int
    n_wrong: int
    auroc: float | None
    """Of whole answers; None: too few items, or all of one kind."""
    auroc_early: float | None
    """After the first 24 tokens, when a handoff helps most."""
    brier: float
    calibration_error: float
    area_under_risk: float
    curve: tuple[CurvePoint, ...] = ()


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
    """No family of prompts is in both halves: how it does on prompts of another kind."""
    mixed_families: Measured | None
    """The random half again, but only families with both right and wrong answers, where knowing
    the family is no help."""
    confidence_only: Measured | None
    """The random half again, from logprobs alone."""
    policy: Summary | None
    """What the policies with their thresholds do with the answers of the random half."""
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
    enough = len(items) >= MIN_ITEMS
    too_few = (
        f"{len(items)} labelled answers are too few to say how good the calibration is: "
        f"give at least {MIN_ITEMS}, better some hundreds"
    )
    return Report(
        model=model,
        n_items=len(items),
        n_wrong=sum(item.wrong for item in items),
        notes=() if enough else (too_few,),
        random_half=measure(train, test, cloud_accuracy=cloud_accuracy) if enough else None,
        other_families=measure(*families, cloud_accuracy=cloud_accuracy)
        if enough and families
        else None,
        mixed_families=measure(train, _mixed(items, test)) if enough else None,
        confidence_only=measure(train, test, names=CONFIDENCE_ONLY) if enough else None,
        policy=_policy(traces, train, test, settings) if enough else None,
        groups=tuple(
            Group(name=name, n_items=len(family), n_wrong=sum(item.wrong for item in family))
            for name, family in _families(items).items()
        ),
    )


def random_halves(items: Sequence[Windows]) -> tuple[list[Windows], list[Windows]]:
    """The items in two halves, by a hash of their ids."""
    ordered = sorted(items, key=lambda item: name_hash(item.id, "half"))
    return ordered[: len(ordered) // 2], ordered[len(ordered) // 2 :]


def halves_of_families(
    items: Sequence[Windows],
) -> tuple[list[Windows], list[Windows]] | None:
    """The items in two halves that share no family; None for fewer than four families.

    Families with similar shares of wrong answers go to different halves.
    """
    families = _families(items)
    if len(families) < 4:
        return None

    def share_wrong(name: str) -> float:
        return sum(item.wrong for item in families[name]) / len(families[name])

    ordered = sorted(families, key=lambda name: (share_wrong(name), name_hash(name, "family")))
    halves: tuple[list[Windows], list[Windows]] = ([], [])
    for place, name in enumerate(ordered):
        # 0 1 1 0 0 1 1 0 …: neither half gets the worse of each pair.
        halves[(place + 1) // 2 % 2].extend(families[name])
    return halves


def _families(items: Sequence[Windows]) -> dict[str, list[Windows]]:
    families: dict[str, list[Windows]] = {}
    for item in items:
        families.setdefault(item.group, []).append(item)
    return families


def measure(
    train: Sequence[Windows],
    test: Sequence[Windows],
    *,
    cloud_accuracy: float = 1.0,
    names: tuple[str, ...] = FITTED,
) -> Measured:
    """Fit on *train*, measure on *test*. Raises NotEnough."""
    fitted = calibrate(train, names=names)

    def p_wrong(item: Windows, row: int) -> float:
        return fitted.p_wrong(dict(zip(POOLED, item.rows[row].tolist(), strict=True))) or 0.0

    wrong = np.array([item.wrong for item in test])
    p_whole = np.array([p_wrong(item, -1) for item in test])
    p_early = np.array([p_wrong(item, item.early) for item in test])
    enough = len(train) + len(test) >= MIN_ITEMS
    return Measured(
        n_items=len(test),
        n_wrong=int(wrong.sum()),
        auroc=measures.auroc(wrong, p_whole) if enough else None,
        auroc_early=measures.auroc(wrong, p_early) if enough else None,
        brier=measures.brier(wrong, p_whole),
        calibration_error=measures.calibration_error(wrong, p_whole),
        area_under_risk=measures.area_under_risk(wrong, p_whole),
        curve=tuple(measures.curve(wrong, p_whole, cloud_accuracy=cloud_accuracy)),
    )


def _mixed(items: Sequence[Windows], test: Sequence[Windows]) -> list[Windows]:
    right = {item.group for item in items if not item.wrong}
    wrong = {item.group for item in items if item.wrong}
    return [item for item in test if item.group in right & wrong]


def _policy(
    traces: Sequence[Trace],
    train: Sequence[Windows],
    test: Sequence[Windows],
    settings: PolicySettings,
) -> Summary:
    local = LocalModel(calibration=calibrate(train))
    held_out = {item.id for item in test}
    # Answers that were recorded side by side came more slowly than they would in use.
    off = {*settings.switched_off, *get_args(CapacityCode)}
    settings = msgspec.structs.replace(settings, switched_off=tuple(sorted(off)))
    return summary(replay(trace, settings, local) for trace in traces if trace.id in held_out)
