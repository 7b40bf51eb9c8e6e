"""The report of `spillover calibrate`, for people."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from spillover.cloud_fallback.policy.learning.calibrating import Measured
from spillover.cloud_fallback.policy.learning.measures import CurvePoint
from spillover.cloud_fallback.policy.learning.replay import Summary
from spillover.cloud_fallback.policy.learning.report import Report


def as_text(found: Report) -> str:
    """Several lines, the last without its end."""
    return "\n".join(_lines(found))


def _lines(found: Report) -> Generator[str]:
    yield f"{found.model}: {found.n_items} answers, {found.n_wrong} of them wrong"
    yield from found.notes
    for title, measured in (
        ("held-out half at random", found.random_half),
        ("held-out half of other families", found.other_families),
        ("at random, mixed families", found.mixed_families),
        ("at random, logprobs alone", found.confidence_only),
    ):
        if measured is not None:
            yield _measured(title, measured)
    if found.random_half is not None:
        yield ""
        yield from _curve(found.random_half.curve)
    if found.policy is not None:
        yield ""
        yield _policy(found.policy)


def _measured(title: str, measured: Measured) -> str:
    return (
        f"{title:<32} AUROC {_figure(measured.auroc)} "
        f"(first 24 tokens {_figure(measured.auroc_early)})  "
        f"ECE {measured.calibration_error:.3f}  Brier {measured.brier:.3f}  n {measured.n_items}"
    )


def _figure(value: float | None) -> str:
    return "  -  " if value is None else f"{value:.3f}"


def _curve(points: Sequence[CurvePoint]) -> Generator[str]:
    yield "hand over  threshold  right, kept  wrong caught  right disturbed  right, all"
    for p in points:
        yield (
            f"{p.handoff_rate:>9.0%}  {p.threshold:>9.3f}  {p.right_of_kept:>11.1%}  "
            f"{p.wrong_caught:>12.1%}  {p.right_disturbed:>15.1%}  {p.right_in_all:>10.1%}"
        )


def _policy(found: Summary) -> str:
    return (
        f"with the default thresholds, held-out half: {found.n_handed_over} of "
        f"{found.n_answers} answers are handed over, "
        f"{found.wrong_caught} of {found.n_wrong} wrong ones and {found.right_disturbed} right ones"
    )
