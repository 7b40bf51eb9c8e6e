"""How good P(wrong) is: pure functions of labels and probabilities."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from msgspec import Struct

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def auroc(wrong: Bools, p_wrong: Floats) -> float | None:
    """The chance that a wrong answer has a higher P(wrong) than a right one (ties: half); None
    without one of each. The Mann-Whitney statistic from mid-ranks."""
    n_wrong = int(wrong.sum())
    n_right = len(wrong) - n_wrong
    if not n_wrong or not n_right:
        return None
    _, place, counts = np.unique(p_wrong, return_inverse=True, return_counts=True)
    mid_ranks = np.cumsum(counts) - (counts - 1) / 2.0
    rank_sum = float(mid_ranks[place][wrong].sum())
    return (rank_sum - n_wrong * (n_wrong + 1) / 2.0) / (n_wrong * n_right)


def brier(wrong: Bools, p_wrong: Floats) -> float:
    """Mean squared error of the probability."""
    return float(np.mean((p_wrong - wrong) ** 2))


def calibration_error(wrong: Bools, p_wrong: Floats, n_bins: int = 10) -> float:
    """ECE: mean distance between P(wrong) and the share of wrong answers, over bins with the same
    number of items."""
    order = np.argsort(p_wrong, kind="stable")
    parts = [part for part in np.array_split(order, min(n_bins, len(order))) if len(part)]
    gaps = [len(part) * abs(float(p_wrong[part].mean() - wrong[part].mean())) for part in parts]
    return sum(gaps) / len(order)


def area_under_risk(wrong: Bools, p_wrong: Floats) -> float:
    """AURC: mean share of wrong answers among the surest k, over all k; smaller is better."""
    order = np.argsort(p_wrong, kind="stable")
    risks = np.cumsum(wrong[order]) / np.arange(1, len(order) + 1)
    return float(risks.mean())


class CurvePoint(Struct, frozen=True, kw_only=True):
    """What happens when the least sure *handoff_rate* of the answers are handed over."""

    handoff_rate: float
    threshold: float
    right_of_kept: float
    """Share of right answers among those that stay local (1 if none stays)."""
    wrong_caught: float
    """Share of all wrong answers that are handed over."""
    right_disturbed: float
    """Share of all right answers that are handed over without need."""
    right_in_all: float
    """Share of right answers in all, if the cloud is right with *cloud_accuracy*."""


def curve(
    wrong: Bools, p_wrong: Floats, *, cloud_accuracy: float, n_steps: int = 10
) -> list[CurvePoint]:
    """Handoff rate against quality, in equal steps of the rate."""
    order = np.argsort(-p_wrong, kind="stable")
    n_all, n_wrong = len(wrong), int(wrong.sum())
    points = []
    for step in range(n_steps + 1):
        n = round(n_all * step / n_steps)
        caught = int(wrong[order[:n]].sum())
        right_kept = n_all - n - (n_wrong - caught)
        points.append(
            CurvePoint(
                handoff_rate=n / n_all,
                threshold=float(p_wrong[order[n - 1]]) if n else 1.0,
                right_of_kept=right_kept / (n_all - n) if n < n_all else 1.0,
                wrong_caught=caught / n_wrong if n_wrong else 0.0,
                right_disturbed=(n - caught) / (n_all - n_wrong) if n_wrong < n_all else 0.0,
                right_in_all=(right_kept + cloud_accuracy * n) / n_all,
            )
        )
    return points
