"""Logistic regression and its calibration: a dozen weights, fitted with numpy alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from msgspec import Struct

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_MAX_STEPS = 50
_TOLERANCE = 1e-8


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

    *x* (n, k); *ridge* counts like so many items that know nothing.
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
