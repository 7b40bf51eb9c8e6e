"""Errors as they leave the server; each dialect gives them its own shape."""

from __future__ import annotations

import math
from typing import Any

from spillover.runtime.errors import (
    ContextOverflow,
    EngineBusy,
    EngineError,
    InvalidRequest,
    SpilloverError,
)


class WireError(Exception):
    """An error for the client: HTTP status, *kind* (OpenAI's error type), the field at fault."""

    def __init__(
        self, status: int, kind: str, message: str, param: str | None = None, **extra: Any
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param
        self.extra = extra
        self.headers: dict[str, str] = {}


def bad_request(message: str, param: str | None = None) -> WireError:
    return WireError(400, "invalid_request_error", message, param)


def from_exception(error: Exception) -> WireError:
    """The one table from our errors to statuses; the text of unknown ones never leaves."""
    match error:
        case WireError():
            return error
        case ContextOverflow():
            return WireError(
                400,
                "exceed_context_size_error",
                str(error),
                error.param,
                n_prompt_tokens=error.n_prompt_tokens,
                n_ctx=error.n_ctx,
            )
        case InvalidRequest():
            return bad_request(str(error), error.param)
        case EngineBusy():
            wire = WireError(429, "rate_limit_error", str(error))
            wire.headers["Retry-After"] = str(math.ceil(error.retry_after_s))
            return wire
        case EngineError() | SpilloverError():
            wire = WireError(503, "unavailable_error", str(error))
            wire.headers["Retry-After"] = "5"
            return wire
        case _:
            return WireError(500, "server_error", f"internal error ({type(error).__name__})")
