"""Errors as they leave the server; each dialect gives them its own shape."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from spillover.runtime.errors import (
    ContextOverflow,
    EngineBusy,
    EngineError,
    InvalidRequest,
    SpilloverError,
)

_KINDS = {
    401: "authentication_error",
    403: "forbidden_error",
    404: "not_found_error",
    409: "conflict_error",
    410: "gone_error",
    429: "rate_limit_error",
    499: "cancelled",
    500: "server_error",
    501: "not_supported_error",
    503: "unavailable_error",
}


class WireError(Exception):
    """An error for the client. *param* names the field at fault, *kind* is OpenAI's error type,
    and *extra* are more fields of the error's object."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        *,
        kind: str | None = None,
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind or _KINDS.get(status, "invalid_request_error")
        self.param = param
        self.headers = headers or {}
        self.extra = extra


def bad_request(message: str, param: str | None = None) -> WireError:
    return WireError(400, message, param)


def from_exception(error: Exception) -> WireError:
    """The one table from our errors to statuses; the text of unknown ones never leaves."""
    message = str(error)
    match error:
        case WireError():
            return error
        case ContextOverflow(param=param, n_prompt_tokens=n_prompt, n_ctx=n_ctx):
            kind = "exceed_context_size_error"
            return WireError(400, message, param, kind=kind, n_prompt_tokens=n_prompt, n_ctx=n_ctx)
        case InvalidRequest():
            return WireError(400, message, error.param)
        case EngineBusy():
            headers = {"Retry-After": str(math.ceil(error.retry_after_s))}
            return WireError(429, message, headers=headers)
        case EngineError() | SpilloverError():
            return WireError(503, message, headers={"Retry-After": "5"})
        case _:
            return WireError(500, f"internal error ({type(error).__name__})")
