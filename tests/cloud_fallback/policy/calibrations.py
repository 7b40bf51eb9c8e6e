"""A calibration of a made-up model."""

from __future__ import annotations

import msgspec

from spillover.cloud_fallback.policy.calibration import Calibration, fingerprint
from tests.answers import FAKE_CARD

CARD = msgspec.structs.replace(FAKE_CARD, name="tiny/../model")


def calibration(**changes: object) -> Calibration:
    base = Calibration(
        model="tiny/../model",
        fingerprint=fingerprint(CARD),
        features=("mean_64",),
        means=(0.0,),
        scales=(1.0,),
        weights=(-1.0,),
        bias=0.0,
    )
    return msgspec.structs.replace(base, **changes)
