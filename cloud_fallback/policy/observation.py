"""What a policy judges: one local leg of an answer at one moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from msgspec import Struct

from spillover.cloud_fallback.policy.calibration import Calibration
from spillover.cloud_fallback.policy.doubt import Doubt
from spillover.cloud_fallback.policy.reason import Reason
from spillover.cloud_fallback.policy.sensors import DeviceReading
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.policy.signals import Signals
from spillover.runtime.engine import EngineStatus
from spillover.runtime.events import Finished
from spillover.runtime.request import GenerationRequest


class LocalModel(Struct, frozen=True, kw_only=True):
    """Facts about the local model; None and () mean unknown, which never counts as bad."""

    n_ctx: int | None = None
    n_kv: int | None = None
    can_call_tools: bool | None = None
    languages: tuple[str, ...] = ()
    calibration: Calibration | None = None


class Observation(Struct, frozen=True, kw_only=True):
    """*signals* and *doubt* grow with the answer. The fields below them are known only in some
    phases."""

    request: GenerationRequest
    settings: PolicySettings
    local: LocalModel
    signals: Signals
    doubt: Doubt
    status: EngineStatus = EngineStatus(state="ready")
    """The engine before the start: phases "before" and "accepted"."""
    device: DeviceReading = DeviceReading()
    """Phases "before" and "sensors"."""
    held_from: int | None = None
    """Where held-back text begins, if there is any: phases "window" and "after"."""
    now: float = 0.0
    """Clock time: phase "silent"."""
    end: Finished | None = None
    """How the answer ended: phase "after"."""


Policy: TypeAlias = Callable[[Observation], Reason | None]
"""A pure function: why another writer should continue the answer, or None."""
Predicate: TypeAlias = Callable[[Observation], bool]
