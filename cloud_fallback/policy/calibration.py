"""Calibrations: what was learned about a model's confidence, from features to P(wrong)."""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
from pathlib import Path
from typing import Annotated, TypeAlias, TypeVar

import msgspec
from msgspec import Meta, Struct

from spillover.runtime.engine import ModelCard
from spillover.runtime.files.json_file import read_json, read_own_json, write_json

VERSION = 2
_FOLDER = "calibrations"
SHIPPED = Path(__file__).parent / _FOLDER
_KEY = re.compile("[0-9a-f]{16}")
_POOLED = SHIPPED / "pooled.json"
MODEL_SIZE = "model_size"
"""A feature of the pooled calibration alone."""


_LARGEST = 10.0
T = TypeVar("T")
Probability: TypeAlias = Annotated[float, Meta(ge=0, le=1)]


class Calibration(Struct, frozen=True, kw_only=True):
    """A logistic regression over named features, for one model in one quantization, or pooled for
    all that have none of their own."""

    model: str
    fingerprint: str
    features: tuple[str, ...]
    means: tuple[float, ...]
    scales: tuple[Annotated[float, Meta(gt=0)], ...]
    """Divisors of the centred features."""
    weights: tuple[float, ...]
    bias: float
    steps: tuple[tuple[Probability, Probability], ...] = ()
    """Isotonic correction: points (P(wrong) before, after), both rising, joined by straight lines.
    Empty: none."""
    n_items: Annotated[int, Meta(ge=0)] = 0
    auroc: Probability | None = None
    """Measured on held-out items; None: too few."""
    languages: tuple[str, ...] = ()
    """The languages that the model knows, if that is known."""
    can_call_tools: bool | None = None
    fitted_to: tuple[str, ...] = ()
    """Fingerprints of the models whose answers a pooled calibration was fitted to."""
    version: int = VERSION

    def __post_init__(self) -> None:
        sizes = {len(self.means), len(self.scales), len(self.weights), len(self.features)}
        if len(sizes) != 1:
            raise ValueError("features, means, scales and weights differ in number")

    def p_wrong(self, features: dict[str, float]) -> float | None:
        """The probability that the answer is wrong; None if a feature is unknown."""
        z = self.bias
        for name, mean, scale, weight in zip(
            self.features, self.means, self.scales, self.weights, strict=True
        ):
            z += weight * (features.get(name, math.nan) - mean) / scale
        if math.isnan(z):
            return None
        p = 1.0 / (1.0 + math.exp(-max(min(z, 40.0), -40.0)))
        return self._corrected(p) if self.steps else p

    def knows_level(self, fingerprint: str) -> bool:
        """Whether P(wrong) is a probability for this model. For others it is only an order: it
        tells which of two answers is the more doubtful one."""
        return fingerprint in (self.fingerprint, *self.fitted_to)

    def for_model(self, n_params: int | None) -> Calibration:
        """A pooled calibration for a model of this size; None: of an average one."""
        if MODEL_SIZE not in self.features:
            return self
        at = self.features.index(MODEL_SIZE)
        size = self.means[at] if n_params is None else model_size(n_params)
        shift = self.weights[at] * (size - self.means[at]) / self.scales[at]

        def others(values: tuple[T, ...]) -> tuple[T, ...]:
            return values[:at] + values[at + 1 :]

        return msgspec.structs.replace(
            self,
            features=others(self.features),
            means=others(self.means),
            scales=others(self.scales),
            weights=others(self.weights),
            bias=self.bias + shift,
        )

    def _corrected(self, p: float) -> float:
        low = self.steps[0]
        for high in self.steps:
            if p <= high[0]:
                if high[0] == low[0]:
                    return high[1]
                return low[1] + (high[1] - low[1]) * (p - low[0]) / (high[0] - low[0])
            low = high
        return low[1]


def fingerprint(card: ModelCard) -> str:
    """A name for the weights and their quantization, whatever the file's name."""
    # Not the library's description, whose wording changes between versions.
    facts = (card.architecture, card.n_params, card.size_bytes, card.n_vocab)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def read_calibration(path: Path) -> Calibration | None:
    """The calibration in *path*; None if the file holds no valid one."""
    return _of_this_version(read_json(path, Calibration))


def _of_this_version(found: Calibration | None) -> Calibration | None:
    return found if found is not None and found.version == VERSION else None


def find_calibration(fingerprint: str, data_dir: Path) -> Calibration | None:
    """The user's own calibration of the model, whatever the file's name, or else a shipped one.
    Files without a valid calibration are skipped."""
    if not _KEY.fullmatch(fingerprint):
        return None
    for folder, read in ((data_dir / _FOLDER, read_own_json), (SHIPPED, read_json)):
        with contextlib.suppress(OSError):
            for path in sorted(folder.glob(f"*-{fingerprint}.json")):
                found = _of_this_version(read(path, Calibration))
                if found is not None and found.fingerprint == fingerprint:
                    return found
    return None


def pooled_calibration(n_params: int | None) -> Calibration | None:
    """The calibration for models without their own. It was fitted to the answers of several models,
    and knows of this one its size alone; None: an average one."""
    found = read_calibration(_POOLED)
    return None if found is None else found.for_model(n_params)


def model_size(n_params: int) -> float:
    """The order of magnitude of a model, as far as the calibration may follow it."""
    return min(math.log10(max(n_params, 1)), _LARGEST)


def write_calibration(calibration: Calibration, data_dir: Path) -> Path:
    """Replace the user's own file for the model. Raises OSError."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", calibration.model).strip(".-")[:64] or "model"
    path = data_dir / _FOLDER / f"{name}-{calibration.fingerprint}.json"
    write_json(path, calibration, indent=1)
    return path
