"""Errors on their way from the worker to the parent."""

from __future__ import annotations

from spillover.runtime.errors import (
    ContextOverflow,
    EngineBusy,
    InputTooLong,
    InvalidRequest,
    ResponseFormatRefused,
    SpilloverError,
)
from spillover.runtime.worker import protocol


def rejected(command_id: int, error: InvalidRequest | EngineBusy) -> protocol.Rejected:
    """What the worker says of a command that it cannot serve."""
    match error:
        case EngineBusy():
            return protocol.Rejected(
                id=command_id, message=str(error), retry_after_s=error.retry_after_s
            )
        case ContextOverflow():
            return protocol.Rejected(
                id=command_id,
                message=str(error),
                param=error.param,
                n_prompt_tokens=error.n_prompt_tokens,
                n_ctx=error.n_ctx,
                is_input_too_long=isinstance(error, InputTooLong),
            )
        case ResponseFormatRefused():
            return protocol.Rejected(
                id=command_id, message=str(error), is_response_format_refused=True
            )
        case _:
            return protocol.Rejected(id=command_id, message=str(error), param=error.param)


def error_of(report: protocol.Rejected, name: str) -> SpilloverError:
    """The error that the worker of the model *name* meant."""
    if report.retry_after_s is not None:
        return EngineBusy(report.message, report.retry_after_s)
    if report.n_prompt_tokens is not None:
        kind = InputTooLong if report.is_input_too_long else ContextOverflow
        return kind(report.n_prompt_tokens, report.n_ctx, name, report.param)
    if report.is_response_format_refused:
        return ResponseFormatRefused(report.message)
    return InvalidRequest(report.message, report.param)
