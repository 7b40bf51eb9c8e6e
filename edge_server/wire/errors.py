"""Errors as they leave the server; each dialect gives them its own shape."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from spillover.runtime.errors import (
    ContextOverflow,
    DeadlyRequest,
    EngineBusy,
    EngineError,
    InvalidRequest,
    SpilloverError,
    WorkerDied,
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
_CODES = {
    401: "invalid_api_key",
    403: "forbidden",
    404: "not_found",
    408: "timeout",
    409: "conflict",
    410: "gone",
    413: "request_too_large",
    429: "rate_limit_exceeded",
    431: "request_too_large",
    499: "cancelled",
    500: "server_error",
    501: "not_supported",
    503: "service_unavailable",
}
"""OpenAI's words where it has them."""


CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
_TOO_LONG = "exceed_context_size_error"
"""llama.cpp's clients look for it, OpenAI's for the code."""


class WireError(Exception):
    """An error for the client. *param* names the field at fault, *kind* is OpenAI's error type,
    *code* its word for the case, and *extra* are more fields of the error's object."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        *,
        kind: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind or _KINDS.get(status, "invalid_request_error")
        self.code = code or _CODES.get(status)
        self.param = param
        self.headers = headers or {}
        self.extra = extra

    def in_words(self, too_long: str) -> str:
        """The message with the field at fault; of a prompt that is too long first *too_long*, in
        which the dialect's clients recognise it: with places for *n* and *most*, its tokens and
        those of the context."""
        n, most = self.extra.get("n_prompt_tokens"), self.extra.get("n_ctx")
        if self.code != CONTEXT_LENGTH_EXCEEDED or n is None:
            return self.with_param
        return f"{too_long.format(n=n, most=most)} ({self.with_param})"

    @property
    def with_param(self) -> str:
        """The message with the field at fault, for shapes that have no other place for it."""
        message = str(self)
        is_named = self.param is None or self.param in message
        return message if is_named else f"{self.param}: {message}"


def bad_request(message: str, param: str | None = None, code: str | None = None) -> WireError:
    """A 400; OpenAI's word for a field that is wrong is invalid_value, unless *code* is."""
    return WireError(400, message, param, code=code or ("invalid_value" if param else None))


def failed(code: str, message: str) -> WireError:
    """The error that an answer ended with which had begun, or was too late for a status."""
    if code == CONTEXT_LENGTH_EXCEEDED:
        return WireError(400, message, kind=_TOO_LONG, code=code)
    return WireError(500, message, kind=code, code=code)


def from_exception(error: Exception) -> WireError:
    """The one table from our errors to statuses; the text of unknown ones never leaves."""
    message = str(error)
    match error:
        case WireError():
            return error
        case ContextOverflow(param=param, n_prompt_tokens=n_prompt, n_ctx=n_ctx):
            return WireError(
                400,
                message,
                param,
                kind=_TOO_LONG,
                code=CONTEXT_LENGTH_EXCEEDED,
                n_prompt_tokens=n_prompt,
                n_ctx=n_ctx,
            )
        case RecursionError():
            return bad_request("the request is nested too deeply")
        case InvalidRequest():
            return bad_request(message, error.param)
        case EngineBusy():
            headers = {"Retry-After": str(math.ceil(error.retry_after_s))}
            return WireError(429, message, headers=headers)
        case DeadlyRequest():
            return WireError(500, message, headers={"X-Should-Retry": "false"})
        case WorkerDied():
            headers = {"Retry-After": str(math.ceil(error.retry_after_s))}
            return WireError(503, message, headers=headers)
        case EngineError() | SpilloverError():
            return WireError(503, message, headers={"Retry-After": "5"})
        case _:
            return WireError(500, f"internal error ({type(error).__name__})")
