"""What an error of the local engine means for the answer."""

from __future__ import annotations

from spillover.cloud_fallback.policy.reason import Reason
from spillover.runtime.engine import EngineStatus
from spillover.runtime.errors import (
    ContextOverflow,
    EngineBusy,
    InvalidRequest,
    ResponseFormatRefused,
    SpilloverError,
)


def reason_of(error: SpilloverError, status: EngineStatus) -> Reason | None:
    """Why another writer should answer; None: nobody could, as the request itself is wrong."""
    match error:
        case ContextOverflow():
            found = {"n_prompt_tokens": float(error.n_prompt_tokens), "n_ctx": float(error.n_ctx)}
            return Reason(code="context", is_hard=True, signals=found)
        case ResponseFormatRefused():
            return Reason(code="schema", is_hard=True)
        case InvalidRequest():
            return None
        case EngineBusy():
            found = {"n_queued": float(status.n_queued)}
            return Reason(code="queue", is_hard=True, signals=found)
        case _:
            found = {"n_restarts": float(status.n_restarts)}
            return Reason(code="crash", is_hard=True, signals=found)
