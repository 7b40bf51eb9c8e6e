"""Fits a model's calibration, and measures on held-out items what it is worth."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from spillover.cloud_fallback.policy.calibration import Calibration
from spillover.cloud_fallback.policy.learning import fit, measures
from spillover.cloud_fallback.policy.learning.measures import CurvePoint
from spillover.cloud_fallback.policy.learning.windows import FITTED, Windows

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

LEAST_ITEMS = 100
"""Fewer labelled items say too little for an AUROC."""
LEAST_FOR_ISOTONIC = 1_000
LEAST_OF_EACH = 10
_N_FOLDS = 5


class Measured(Struct, frozen=True, kw_only=True):
    """P(wrong) of held-out answers against their labels."""

    n_items: int
    n_wrong: int
    auroc: float | None
    """Of whole answers; None: too few items, or all of one kind."""
    auroc_early: float | None
    """With the first 24 tokens only, which is when a handoff helps most."""
    brier: float
    calibration_error: float
    area_under_risk: float
    curve: tuple[CurvePoint, ...] = ()


class NotEnough(ValueError):
    """Too few right or wrong answers for a fit."""


def fit_windows(
    items: Sequence[Windows], *, names: tuple[str, ...] = FITTED
) -> tuple[fit.Logistic, list[tuple[float, float]]]:
    """A logistic regression over all windows, calibrated on log-odds that it did not see.

    Each answer counts once, however many windows it has. Returns the regression, Platt's slope
    and offset already in it, and the steps of an isotonic correction, which needs a thousand
    items and is empty below. Raises NotEnough.
    """
    n_wrong = sum(item.wrong for item in items)
    if min(n_wrong, len(items) - n_wrong) < LEAST_OF_EACH:
        raise NotEnough(
            f"{len(items) - n_wrong} right and {n_wrong} wrong answers: "
            f"{LEAST_OF_EACH} of each are needed"
        )
    model = _logistic(items, names)
    odds, labels, weights = _unseen_odds(items, names)
    slope, offset = fit.fit_platt(odds, labels, weights)
    # A negative slope would turn the order round, which no few unlucky folds may do.
    slope = max(slope, 0.1)
    model = fit.Logistic(
        means=model.means,
        scales=model.scales,
        weights=model.weights * slope,
        bias=model.bias * slope + offset,
    )
    if len(items) < LEAST_FOR_ISOTONIC:
        return model, []
    return model, fit.fit_isotonic(fit.sigmoid(slope * odds + offset), labels, weights)


def _logistic(items: Sequence[Windows], names: tuple[str, ...]) -> fit.Logistic:
    x, y, weights = _stacked(items, names)
    return fit.fit_logistic(x, y, weights)


def _stacked(items: Sequence[Windows], names: tuple[str, ...]) -> tuple[Floats, Bools, Floats]:
    x = np.vstack([item.columns(names) for item in items])
    counts = [len(item.rows) for item in items]
    y = np.repeat([item.wrong for item in items], counts)
    weights = np.repeat([1.0 / n for n in counts], counts)
    return x, y, weights


def _unseen_odds(items: Sequence[Windows], names: tuple[str, ...]) -> tuple[Floats, Bools, Floats]:
    """Log-odds of each window by a regression fitted without its answer."""
    odds, labels, weights = [], [], []
    for fold in range(_N_FOLDS):
        held = [item for item in items if _place(item.id, "fold") % _N_FOLDS == fold]
        rest = [item for item in items if _place(item.id, "fold") % _N_FOLDS != fold]
        if not held or len({item.wrong for item in rest}) < 2:
            continue
        x, y, w = _stacked(held, names)
        odds.append(_logistic(rest, names).log_odds(x))
        labels.append(y)
        weights.append(w)
    return np.concatenate(odds), np.concatenate(labels), np.concatenate(weights)


def _place(name: str, salt: str) -> int:
    """A number that depends on the name alone, so that splits are always the same."""
    return int.from_bytes(hashlib.blake2b(f"{salt}:{name}".encode(), digest_size=6).digest())


def random_halves(items: Sequence[Windows]) -> tuple[list[Windows], list[Windows]]:
    """The items in two halves, by a hash of their ids."""
    ordered = sorted(items, key=lambda item: _place(item.id, "half"))
    return ordered[: len(ordered) // 2], ordered[len(ordered) // 2 :]


def halves_of_families(
    items: Sequence[Windows],
) -> tuple[list[Windows], list[Windows]] | None:
    """The items in two halves that share no family; None with fewer than four families.

    Families that are alike in their share of wrong answers go to different halves.
    """
    families: dict[str, list[Windows]] = {}
    for item in items:
        families.setdefault(item.group, []).append(item)
    if len(families) < 4:
        return None
    ordered = sorted(
        families, key=lambda name: (_share_wrong(families[name]), _place(name, "family"))
    )
    halves: tuple[list[Windows], list[Windows]] = ([], [])
    for place, name in enumerate(ordered):
        # 0 1 1 0 0 1 1 0 …: neither half gets the worse of each pair.
        halves[(place + 1) // 2 % 2].extend(families[name])
    return halves


def _share_wrong(items: Sequence[Windows]) -> float:
    return sum(item.wrong for item in items) / len(items)


def measure(
    train: Sequence[Windows],
    test: Sequence[Windows],
    *,
    cloud_accuracy: float = 1.0,
    names: tuple[str, ...] = FITTED,
) -> Measured:
    """Fit on *train*, measure on *test*. Raises NotEnough."""
    model, steps = fit_windows(train, names=names)
    wrong = np.array([item.wrong for item in test])
    p_whole = _p_wrong(model, steps, np.vstack([item.columns(names)[-1] for item in test]))
    early = np.vstack([item.columns(names)[item.early] for item in test])
    enough = len(train) + len(test) >= LEAST_ITEMS
    return Measured(
        n_items=len(test),
        n_wrong=int(wrong.sum()),
        auroc=measures.auroc(wrong, p_whole) if enough else None,
        auroc_early=measures.auroc(wrong, _p_wrong(model, steps, early)) if enough else None,
        brier=measures.brier(wrong, p_whole),
        calibration_error=measures.calibration_error(wrong, p_whole),
        area_under_risk=measures.area_under_risk(wrong, p_whole),
        curve=tuple(measures.curve(wrong, p_whole, cloud_accuracy=cloud_accuracy)),
    )


def _p_wrong(model: fit.Logistic, steps: list[tuple[float, float]], x: Floats) -> Floats:
    p = fit.sigmoid(model.log_odds(x))
    if steps:
        before, after = np.array(steps).T
        p = np.interp(p, before, after)
    return p


def calibrate(
    items: Sequence[Windows], *, model: str, fingerprint: str, auroc: float | None
) -> Calibration:
    """The calibration that goes into the file: fitted on all items. Raises NotEnough."""
    fitted, steps = fit_windows(items)
    return Calibration(
        model=model,
        fingerprint=fingerprint,
        features=FITTED,
        means=_rounded(fitted.means),
        scales=_rounded(fitted.scales),
        weights=_rounded(fitted.weights),
        bias=round(fitted.bias, 6),
        steps=tuple((round(a, 6), round(b, 6)) for a, b in steps),
        n_items=len(items),
        auroc=None if auroc is None else round(auroc, 4),
    )


def _rounded(values: Floats) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values)
