"""What was learned of one model's confidence: from features to P(wrong)."""

from __future__ import annotations

import math

from msgspec import Struct

VERSION = 1


class Calibration(Struct, frozen=True, kw_only=True):
    """A logistic regression over named features; it belongs to one model and quantization."""

    model: str
    fingerprint: str
    features: tuple[str, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    """Divide the centred features."""
    weights: tuple[float, ...]
    bias: float
    steps: tuple[tuple[float, float], ...] = ()
    """Isotonic correction: (P(wrong) before, after), both rising; between them a straight line.
    Empty: none."""
    n_items: int = 0
    auroc: float | None = None
    """On held-out items; None: too few."""
    languages: tuple[str, ...] = ()
    """What the model speaks, where that is known."""
    can_call_tools: bool | None = None
    version: int = VERSION

    def p_wrong(self, features: dict[str, float]) -> float | None:
        """The probability that the answer is wrong; None when a feature is unknown."""
        z = self.bias
        for name, mean, scale, weight in zip(
            self.features, self.means, self.scales, self.weights, strict=True
        ):
            z += weight * (features.get(name, math.nan) - mean) / scale
        if math.isnan(z):
            return None
        p = 1.0 / (1.0 + math.exp(-max(min(z, 40.0), -40.0)))
        return self._corrected(p) if self.steps else p

    def _corrected(self, p: float) -> float:
        low = self.steps[0]
        for high in self.steps:
            if p <= high[0]:
                if high[0] == low[0]:
                    return high[1]
                return low[1] + (high[1] - low[1]) * (p - low[0]) / (high[0] - low[0])
            low = high
        return low[1]
