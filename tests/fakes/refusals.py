"""How each provider writes its errors: status, headers and body."""

from __future__ import annotations

import json
import time
from email.utils import formatdate
from typing import Any

from msgspec import Struct

from tests.fakes.asked import DialectName
from tests.fakes.script import Act, Kind

_STATUS: dict[Kind, int] = {
    "rate_limited": 429,
    "auth": 401,
    "permission": 403,
    "billing": 402,
    "context": 400,
    "no_prefill": 400,
    "bad_request": 400,
    "content_policy": 400,
    "not_found": 404,
    "server_error": 500,
    "unavailable": 503,
    "overloaded": 529,
    "timeout": 504,
}
_OWN_STATUS: dict[tuple[DialectName, Kind], int] = {
    ("openai", "billing"): 429,
    ("azure", "billing"): 429,
    ("gemini", "auth"): 400,
    ("openai", "overloaded"): 503,
    ("azure", "overloaded"): 503,
    ("gemini", "overloaded"): 503,
    ("cohere", "overloaded"): 503,
    ("tgi", "overloaded"): 429,
    ("bedrock", "overloaded"): 503,
    ("bedrock", "auth"): 403,
    ("bedrock", "billing"): 403,
}
_MESSAGE: dict[Kind, str] = {
    "rate_limited": "Rate limit reached for requests",
    "auth": "Incorrect API key provided",
    "permission": "You do not have access to this model",
    "billing": "You exceeded your current quota, please check your plan and billing details",
    "context": "This model's maximum context length is 8192 tokens. However, your messages "
    "resulted in 9001 tokens",
    "bad_request": "Invalid value for 'temperature'",
    "content_policy": "The response was filtered due to the prompt triggering content management",
    "not_found": "The model does not exist",
    "server_error": "The server had an error while processing your request",
    "unavailable": "Service unavailable, the model is loading",
    "overloaded": "Overloaded",
    "timeout": "The request timed out",
    "no_prefill": "This model does not support assistant message prefill. The conversation must "
    "end with a user message.",
}
_OWN_MESSAGE: dict[tuple[DialectName, Kind], str] = {
    ("anthropic", "context"): "prompt is too long: 210000 tokens > 200000 maximum",
    ("gemini", "no_prefill"): "Requests ending with a model turn are not supported.",
    ("gemini", "auth"): "API key not valid. Please pass a valid API key.",
    ("gemini", "rate_limited"): "Resource has been exhausted (e.g. check quota).",
    ("gemini", "context"): "The input token count (2000000) exceeds the maximum number of tokens "
    "allowed (1048576).",
    ("bedrock", "billing"): "Model access is denied due to INVALID_PAYMENT_INSTRUMENT: a valid "
    "payment instrument must be provided.",
    ("bedrock", "context"): "Input is too long for requested model.",
    ("bedrock", "auth"): "The security token included in the request is invalid.",
}
_OPENAI: dict[Kind, tuple[str, str | None]] = {
    "rate_limited": ("requests", "rate_limit_exceeded"),
    "auth": ("invalid_request_error", "invalid_api_key"),
    "permission": ("invalid_request_error", "model_not_found"),
    "billing": ("insufficient_quota", "insufficient_quota"),
    "context": ("invalid_request_error", "context_length_exceeded"),
    "content_policy": ("invalid_request_error", "content_filter"),
    "not_found": ("invalid_request_error", "model_not_found"),
    "server_error": ("server_error", None),
    "unavailable": ("server_error", None),
    "overloaded": ("server_error", "overloaded"),
    "timeout": ("server_error", "timeout"),
}
_ANTHROPIC: dict[Kind, str] = {
    "rate_limited": "rate_limit_error",
    "auth": "authentication_error",
    "permission": "permission_error",
    "billing": "billing_error",
    "not_found": "not_found_error",
    "server_error": "api_error",
    "unavailable": "api_error",
    "overloaded": "overloaded_error",
    "timeout": "timeout_error",
}
_GEMINI: dict[Kind, str] = {
    "rate_limited": "RESOURCE_EXHAUSTED",
    "permission": "PERMISSION_DENIED",
    "billing": "FAILED_PRECONDITION",
    "not_found": "NOT_FOUND",
    "server_error": "INTERNAL",
    "unavailable": "UNAVAILABLE",
    "overloaded": "UNAVAILABLE",
    "timeout": "DEADLINE_EXCEEDED",
}
_BEDROCK: dict[Kind, str] = {
    "rate_limited": "ThrottlingException",
    "auth": "UnrecognizedClientException",
    "permission": "AccessDeniedException",
    "billing": "AccessDeniedException",
    "not_found": "ResourceNotFoundException",
    "server_error": "InternalServerException",
    "unavailable": "ServiceUnavailableException",
    "overloaded": "ServiceUnavailableException",
    "timeout": "ModelTimeoutException",
}
_TGI: dict[Kind, str] = {
    "overloaded": "overloaded",
    "rate_limited": "overloaded",
    "server_error": "generation",
    "unavailable": "incomplete_generation",
}


_API_KEY_INVALID = {
    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
    "reason": "API_KEY_INVALID",
    "domain": "googleapis.com",
    "metadata": {"service": "generativelanguage.googleapis.com"},
}


class Refusal(Struct, frozen=True, kw_only=True):
    """A response without a stream."""

    status: int
    headers: dict[str, str]
    body: bytes


def refusal(dialect: DialectName, act: Act) -> Refusal:
    """The response that *act* asks for, as *dialect* writes it."""
    if act.redirect_to is not None:
        return Refusal(status=307, headers={"location": act.redirect_to}, body=b"")
    kind = act.refusal or "server_error"
    own = (dialect, kind)
    status = act.status or _OWN_STATUS.get(own, _STATUS[kind])
    headers = {"content-type": "application/json"} | _retry_headers(act)
    if dialect == "bedrock":
        headers["x-amzn-errortype"] = error_name(kind)
    said = error_body(dialect, kind)
    if act.retry_form == "retry_info":
        detail = {
            "@type": "type.googleapis.com/google.rpc.RetryInfo",
            "retryDelay": f"{act.retry_after_s:g}s",
        }
        said["error"]["details"] = [detail]
    body = act.body if act.body is not None else json.dumps(said, indent=2)
    return Refusal(status=status, headers=headers | act.headers, body=body.encode())


def _retry_headers(act: Act) -> dict[str, str]:
    now = time.time()
    if act.retry_form == "seconds":
        return {"retry-after": f"{act.retry_after_s:g}"}
    if act.retry_form == "ms":
        return {"retry-after-ms": f"{act.retry_after_s * 1000:.0f}"}
    if act.retry_form == "date":
        later = formatdate(now + act.retry_after_s, usegmt=True)
        return {"retry-after": later, "date": formatdate(now, usegmt=True)}
    return {}


def error_body(dialect: DialectName, kind: Kind) -> dict[str, Any]:
    """The JSON of an error, as a response's body and inside a stream."""
    message = _OWN_MESSAGE.get((dialect, kind), _MESSAGE[kind])
    status = _OWN_STATUS.get((dialect, kind), _STATUS[kind])
    if dialect in ("openai", "azure"):
        type_, code = _OPENAI.get(kind, ("invalid_request_error", None))
        return {"error": {"message": message, "type": type_, "param": None, "code": code}}
    if dialect == "anthropic":
        type_ = _ANTHROPIC.get(kind, "invalid_request_error")
        error = {"type": type_, "message": message}
        return {"type": "error", "error": error, "request_id": "req_1"}
    if dialect == "gemini":
        name = _GEMINI.get(kind, "INVALID_ARGUMENT")
        details = {"details": [_API_KEY_INVALID]} if kind == "auth" else {}
        return {"error": {"code": status, "message": message, "status": name} | details}
    if dialect == "tgi":
        return {"error": message, "error_type": _TGI.get(kind, "validation")}
    return {"message": message}


def error_name(kind: Kind) -> str:
    """The name of AWS's exception."""
    return _BEDROCK.get(kind, "ValidationException")
