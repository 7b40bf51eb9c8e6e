"""From recorded answers to a model's calibration: features, and a regression with numpy alone."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from spillover.cloud_fallback.policy.calibration import MODEL_SIZE, Calibration, model_size
from spillover.cloud_fallback.policy.doubt import MIN_TOKENS, tokens_to_next_window
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.policy.signals import Signals
from spillover.edge_server.calibration.trace import Trace

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

FITTED = (
    "early_8",
    "mean_64",
    "quantile_10",
    "entropy_64",
    "margin_16",
    "position",
    "refusal",
    "uncovered",
    "wrong_sum",
    "prompt_length",
    "asks_number",
    "asks_code",
    "asks_translation",
    "asks_brevity",
    "asks_form",
)
"""The features of a model's own calibration. The others add nothing to these."""
POOLED = (*FITTED, MODEL_SIZE)
"""Those of the calibration for models without their own."""
CONFIDENCE_ONLY = FITTED[:6]
"""Those that come from logprobs."""
EARLY_TOKENS = 24
"""A handoff within this many tokens of an answer is early."""
MIN_FOR_ISOTONIC = 1_000
MIN_OF_EACH = 10
_N_FOLDS = 5
_MAX_STEPS = 50
_TOLERANCE = 1e-8

# --- features -----------------------------------------------------------------------------------


class Windows(Struct, frozen=True, kw_only=True):
    """One labelled answer."""

    id: str
    group: str
    wrong: bool
    rows: Floats
    """(n_windows, len(POOLED)); the last row is the whole answer."""
    early: int
    """The row of the last window within the first EARLY_TOKENS tokens."""

    def columns(self, names: tuple[str, ...]) -> Floats:
        found: Floats = self.rows[:, [POOLED.index(name) for name in names]]
        return found


def windows_of(trace: Trace, settings: PolicySettings) -> Windows | None:
    """The windows at which a Watch would judge, and the end; None without a label or logprobs."""
    if trace.wrong is None:
        return None
    signals = Signals(trace.request, settings, 0.0)
    rows: list[list[float]] = []
    size = model_size(trace.n_params) if trace.n_params else 0.0
    early, next_window = 0, 0
    for elapsed_s, event in trace.events():
        signals.see(event, elapsed_s)
        n = signals.n_tokens
        if n >= next_window and n and signals.track.n >= MIN_TOKENS:
            next_window = n + tokens_to_next_window(n)
            rows.append([*_row(signals), size])
            if n <= EARLY_TOKENS:
                early = len(rows) - 1
    if not signals.track.n:
        return None
    rows.append([*_row(signals), size])
    return Windows(
        id=trace.id, group=trace.group, wrong=trace.wrong, rows=np.array(rows), early=early
    )


def _row(signals: Signals) -> list[float]:
    features = signals.features()
    return [features[name] for name in FITTED]


# --- regression ---------------------------------------------------------------------------------


class Logistic(Struct, frozen=True, kw_only=True):
    """P = sigmoid(bias + weights · (x - means) / scales)."""

    means: Floats
    scales: Floats
    weights: Floats
    bias: float

    def log_odds(self, x: Floats) -> Floats:
        odds: Floats = self.bias + ((x - self.means) / self.scales) @ self.weights
        return odds


def sigmoid(z: Floats) -> Floats:
    p: Floats = 1.0 / (1.0 + np.exp(-np.clip(z, -40.0, 40.0)))
    return p


def fit_logistic(x: Floats, y: Bools, sample_weights: Floats, ridge: float = 1.0) -> Logistic:
    """Newton's method with a ridge penalty on the standardized weights (not on the bias).

    *x* (n, k); *ridge* counts like as many items without any information.
    """
    total = sample_weights.sum()
    means = (sample_weights @ x) / total
    scales = np.sqrt((sample_weights @ (x - means) ** 2) / total)
    scales[scales < 1e-9] = 1.0
    design = np.column_stack([np.ones(len(x)), (x - means) / scales])
    penalty = np.diag([1e-6, *[ridge] * x.shape[1]])
    beta = np.zeros(design.shape[1])
    for _ in range(_MAX_STEPS):
        p = sigmoid(design @ beta)
        gradient = design.T @ (sample_weights * (p - y)) + penalty @ beta
        curvature = sample_weights * np.maximum(p * (1.0 - p), 1e-9)
        step = np.linalg.solve((design.T * curvature) @ design + penalty, gradient)
        step *= min(1.0, 5.0 / max(float(np.abs(step).max()), 1e-12))
        beta = beta - step
        if float(np.abs(step).max()) < _TOLERANCE:
            break
    return Logistic(means=means, scales=scales, weights=beta[1:], bias=float(beta[0]))


def fit_platt(log_odds: Floats, y: Bools, sample_weights: Floats) -> tuple[float, float]:
    """(slope, offset) that make sigmoid(slope * log_odds + offset) the best probability."""
    fitted = fit_logistic(log_odds[:, None], y, sample_weights, ridge=1e-3)
    slope = float(fitted.weights[0] / fitted.scales[0])
    return slope, float(fitted.bias - slope * fitted.means[0])


def fit_isotonic(p: Floats, y: Bools, sample_weights: Floats) -> list[tuple[float, float]]:
    """The rising step function nearest to the labels (pool adjacent violators), as points
    (P before, P after) in the middle of each step."""
    order = np.argsort(p, kind="stable")
    blocks: list[list[float]] = []  # weight, sum of y, sum of p
    for i in order:
        w = float(sample_weights[i])
        blocks.append([w, w * float(y[i]), w * float(p[i])])
        while len(blocks) > 1 and blocks[-2][1] * blocks[-1][0] >= blocks[-1][1] * blocks[-2][0]:
            last = blocks.pop()
            blocks[-1] = [a + b for a, b in zip(blocks[-1], last, strict=True)]
    return [(sum_p / w, sum_y / w) for w, sum_y, sum_p in blocks]


# --- calibration --------------------------------------------------------------------------------


class NotEnough(ValueError):
    """There are too few right or wrong answers for a fit."""


def calibrate(
    items: Sequence[Windows],
    *,
    names: tuple[str, ...] = FITTED,
    model: str = "",
    fingerprint: str = "",
    auroc: float | None = None,
) -> Calibration:
    """The calibration that is fitted to all *items*. Raises NotEnough."""
    fitted, steps = fit_windows(items, names=names)
    return Calibration(
        model=model,
        fingerprint=fingerprint,
        features=names,
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


def fit_windows(
    items: Sequence[Windows], *, names: tuple[str, ...] = FITTED
) -> tuple[Logistic, list[tuple[float, float]]]:
    """A logistic regression over all windows, calibrated on log-odds of unseen answers.

    Each answer counts once, however many windows it has. Returns the regression, which includes
    Platt's slope and offset, and the steps of an isotonic correction, which needs a thousand items
    and is empty for fewer. Raises NotEnough.
    """
    n_wrong = sum(item.wrong for item in items)
    n_right = len(items) - n_wrong
    if min(n_wrong, n_right) < MIN_OF_EACH:
        raise NotEnough(
            f"{n_right} right and {n_wrong} wrong answers are too few: give {MIN_OF_EACH} of each"
        )
    model = fit_logistic(*_stacked(items, names))
    odds, labels, weights = _unseen_odds(items, names)
    slope, offset = fit_platt(odds, labels, weights)
    # A negative slope would reverse the order; only a few unlucky folds can give one.
    slope = max(slope, 0.1)
    model = Logistic(
        means=model.means,
        scales=model.scales,
        weights=model.weights * slope,
        bias=model.bias * slope + offset,
    )
    if len(items) < MIN_FOR_ISOTONIC:
        return model, []
    return model, fit_isotonic(sigmoid(slope * odds + offset), labels, weights)


def _stacked(items: Sequence[Windows], names: tuple[str, ...]) -> tuple[Floats, Bools, Floats]:
    """x, y and sample weights of all windows."""
    x = np.vstack([item.columns(names) for item in items])
    counts = [len(item.rows) for item in items]
    y = np.repeat([item.wrong for item in items], counts)
    weights = np.repeat([1.0 / n for n in counts], counts)
    return x, y, weights


def _unseen_odds(items: Sequence[Windows], names: tuple[str, ...]) -> tuple[Floats, Bools, Floats]:
    """The log-odds of each window by a regression fitted without its answer."""
    odds, labels, weights = [], [], []
    for fold in range(_N_FOLDS):
        held = [item for item in items if name_hash(item.id, "fold") % _N_FOLDS == fold]
        rest = [item for item in items if name_hash(item.id, "fold") % _N_FOLDS != fold]
        if not held or len({item.wrong for item in rest}) < 2:
            continue
        x, y, w = _stacked(held, names)
        odds.append(fit_logistic(*_stacked(rest, names)).log_odds(x))
        labels.append(y)
        weights.append(w)
    return np.concatenate(odds), np.concatenate(labels), np.concatenate(weights)


def name_hash(name: str, salt: str) -> int:
    """A number that depends on nothing else, so that splits are always the same."""
    return int.from_bytes(hashlib.blake2b(f"{salt}:{name}".encode(), digest_size=6).digest())
