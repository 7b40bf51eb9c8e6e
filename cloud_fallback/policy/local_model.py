"""What the policies know of the local model."""

from __future__ import annotations

from msgspec import Struct

from spillover.cloud_fallback.policy.confidence.calibration import Calibration
from spillover.runtime.engine import ModelCard


class LocalModel(Struct, frozen=True, kw_only=True):
    """Facts of a local model; None and () where they are not known, which never counts as bad."""

    name: str = ""
    n_ctx: int | None = None
    n_kv: int | None = None
    can_call_tools: bool | None = None
    languages: tuple[str, ...] = ()
    calibration: Calibration | None = None


def local_model(card: ModelCard, calibration: Calibration | None = None) -> LocalModel:
    """The facts of a loaded model."""
    return LocalModel(
        name=card.name,
        n_ctx=card.n_ctx,
        n_kv=card.n_kv,
        languages=calibration.languages if calibration else (),
        can_call_tools=calibration.can_call_tools if calibration else None,
        calibration=calibration,
    )
