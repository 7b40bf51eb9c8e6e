"""What providers' refusals become, over HTTP and inside a stream."""

from __future__ import annotations

import json
from typing import Any

import pytest

from spillover.cloud_fallback.errors import (
    AuthFailed,
    BillingFailed,
    ContentBlocked,
    ContextExceeded,
    NetworkFailed,
    Overloaded,
    ProviderError,
    ProviderRefused,
    RateLimited,
)
from spillover.cloud_fallback.http.frame import Frame
from spillover.cloud_fallback.providers.companies import COMPANIES
from tests.cloud_fallback.dialects.conversations import dialect_for

HTML = "<html><body><h1>502 Bad Gateway</h1></body></html>"


def openai(type: str, code: Any = None, message: str = "m", param: Any = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def anthropic(type: str, message: str = "m", **details: Any) -> dict[str, Any]:
    error = {"type": type, "message": message}
    return {"type": "error", "error": error | details, "request_id": "req_011CSH"}


def google(code: int, status: str, message: str = "m", *details: Any) -> dict[str, Any]:
    error = {"code": code, "message": message, "status": status}
    return {"error": error | ({"details": list(details)} if details else {})}


def google_reason(reason: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason}


CASES: list[tuple[str, int, Any, type[ProviderError]]] = [
    ("openai", 401, openai("invalid_request_error", "invalid_api_key"), AuthFailed),
    ("openai", 403, openai("request_forbidden", "unsupported_country_region_territory"),
     AuthFailed),
    ("openai", 404, openai("invalid_request_error", "model_not_found"), ProviderRefused),
    ("openai", 429, openai("requests", "rate_limit_exceeded"), RateLimited),
    ("openai", 429, openai("insufficient_quota", "insufficient_quota"), BillingFailed),
    ("openai", 400, openai("invalid_request_error", "context_length_exceeded"), ContextExceeded),
    ("openai", 400, openai("invalid_request_error", "content_policy_violation"), ContentBlocked),
    ("openai", 400, openai("invalid_request_error"), ProviderRefused),
    ("openai", 409, openai("conflict"), Overloaded),
    ("openai", 500, openai("server_error"), Overloaded),
    ("openai", 502, HTML, Overloaded),
    ("openai", 403, HTML, Overloaded),
    ("openai", 401, HTML, AuthFailed),
    ("openai", 407, HTML, NetworkFailed),
    ("openai", 503, openai("server_error", "engine_overloaded"), Overloaded),
    ("openai", 402, {"error": {"message": "Insufficient Balance"}}, BillingFailed),
    ("openai", 301, "", ProviderRefused),
    ("openai", 204, "", ProviderError),
    ("openai", 400, {"object": "error", "message": "maximum context length is 4096", "code": 400},
     ContextExceeded),
    ("openai", 400, {"error": {"code": 400, "type": "exceed_context_size_error"}}, ContextExceeded),
    ("openai", 403, {"error": {"code": 403, "message": "Your input was flagged as x",
                               "metadata": {"reasons": ["x"]}}}, ContentBlocked),
    ("azure", 400, {"error": {"code": "content_filter", "status": 400, "innererror":
        {"code": "ResponsibleAIPolicyViolation"}, "message": "m"}}, ContentBlocked),
    ("azure", 401, {"statusCode": 401, "message": "m"}, AuthFailed),
    ("azure", 429, {"error": {"code": "429", "message": "m"}}, RateLimited),
    ("azure", 404, {"error": {"code": "DeploymentNotFound", "message": "m"}}, ProviderRefused),
    ("anthropic", 400, anthropic("invalid_request_error"), ProviderRefused),
    ("anthropic", 401, anthropic("authentication_error"), AuthFailed),
    ("anthropic", 402, anthropic("billing_error"), BillingFailed),
    ("anthropic", 403, anthropic("permission_error"), AuthFailed),
    ("anthropic", 404, anthropic("not_found_error"), ProviderRefused),
    ("anthropic", 413, anthropic("request_too_large"), ProviderRefused),
    ("anthropic", 429, anthropic("rate_limit_error"), RateLimited),
    ("anthropic", 500, anthropic("api_error"), Overloaded),
    ("anthropic", 504, anthropic("timeout_error"), Overloaded),
    ("anthropic", 529, anthropic("overloaded_error"), Overloaded),
    ("anthropic", 400, anthropic("invalid_request_error",
        "Your credit balance is too low to access the Anthropic API."), BillingFailed),
    ("anthropic", 400, anthropic("invalid_request_error",
        "prompt is too long: 210000 tokens > 200000 maximum"), ContextExceeded),
    ("anthropic", 400, anthropic("invalid_request_error",
        "Output blocked by content filtering policy"), ContentBlocked),
    *[("anthropic", 429, anthropic("rate_limit_error", details={"error_code": code}), BillingFailed)
      for code in ("contract_spend_limit_reached", "enforced_spend_limit_reached",
                   "organization_on_hold")],
    ("anthropic", 429, anthropic("rate_limit_error", details={"error_code": "ramp_limit_exceeded"}),
     RateLimited),
    ("gemini", 400, google(400, "INVALID_ARGUMENT"), ProviderRefused),
    ("gemini", 400, google(400, "INVALID_ARGUMENT", "m", google_reason("API_KEY_INVALID")),
     AuthFailed),
    ("gemini", 400, google(400, "INVALID_ARGUMENT",
        "The input token count (2000000) exceeds the maximum number of tokens allowed (1048576)."),
     ContextExceeded),
    ("gemini", 403, google(403, "PERMISSION_DENIED"), AuthFailed),
    ("gemini", 404, google(404, "NOT_FOUND"), ProviderRefused),
    ("gemini", 429, google(429, "RESOURCE_EXHAUSTED",
        "You exceeded your current quota, please check your plan and billing details."),
     RateLimited),
    ("gemini", 500, google(500, "INTERNAL"), Overloaded),
    ("vertex", 401, [google(401, "UNAUTHENTICATED")], AuthFailed),
    ("vertex", 503, [google(503, "UNAVAILABLE")], Overloaded),
    ("cohere", 400, {"id": "x", "message": "invalid request"}, ProviderRefused),
    ("cohere", 400, {"message": "too many tokens: size limit exceeded by 5 tokens"},
     ContextExceeded),
    ("cohere", 401, {"id": "x", "message": "invalid api token"}, AuthFailed),
    ("cohere", 402, {"message": "m"}, BillingFailed),
    ("cohere", 429, {"message": "m"}, RateLimited),
    ("cohere", 422, {"message": "m"}, ProviderRefused),
    ("huggingface", 503, {"error": "Service Unavailable"}, Overloaded),
    ("huggingface", 401, {"error": "Invalid username or password."}, AuthFailed),
    ("huggingface", 429, {"error": "Model is overloaded", "error_type": "overloaded"}, RateLimited),
    ("tgi", 422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= "
                  "4096. Given: 9000", "error_type": "validation"}, ContextExceeded),
    ("tgi", 422, {"error": "Input validation error", "error_type": "validation"}, ProviderRefused),
    ("tgi", 424, {"error": "Request failed during generation", "error_type": "generation"},
     Overloaded),
    ("bedrock", 400, {"message": "Input is too long for requested model."}, ContextExceeded),
    ("bedrock", 400, {"message": "m"}, ProviderRefused),
    ("bedrock", 403, {"message": "m"}, AuthFailed),
    ("bedrock", 424, {"message": "m"}, Overloaded),
    ("bedrock", 429, {"message": "Too many tokens, please wait before trying again."}, RateLimited),
    ("bedrock", 503, {"message": "m"}, Overloaded),
]  # fmt: skip


@pytest.mark.parametrize(("name", "status", "body", "kind"), CASES)
def test_an_error_answer_becomes_the_error_to_act_on(
    name: str, status: int, body: Any, kind: type[ProviderError]
) -> None:
    data = body if isinstance(body, str) else json.dumps(body, indent=2)
    error = dialect_for(name, name="mine").error(status, {}, data.encode())
    assert type(error) is kind
    assert error.provider == "mine"
    assert str(error).startswith("mine: ")


STREAMED: list[tuple[str, Frame, type[ProviderError]]] = [
    ("openai", Frame(data=b'{"error":{"message":"m","type":"server_error"}}'), Overloaded),
    ("openai", Frame(data=b'{"error":{"message":"m","code":429}}'), RateLimited),
    ("openai", Frame(data=b'{"error":{"message":"m","code":"429"}}'), RateLimited),
    ("openai", Frame(data=b'{"error":{"code":"insufficient_quota"}}'), BillingFailed),
    ("openai", Frame(data=b'{"error":"it broke"}'), ProviderError),
    ("openai", Frame(data=b'{"object":"error","message":"m","code":400}'), ProviderRefused),
    ("openai", Frame(name="error", data=b'{"message":"m","code":502}'), Overloaded),
    ("openai", Frame(data=b'{"id":"x","choices":[{"index":0,"delta":{"content":""},'
                     b'"finish_reason":"error"}],"error":{"code":503,"message":"m"}}'), Overloaded),
    ("azure", Frame(data=b'{"error":{"code":"content_filter","message":"m"}}'), ContentBlocked),
    ("anthropic", Frame(name="error", data=b'{"type":"error","error":{"type":"overloaded_error",'
                        b'"message":"Overloaded"}}'), Overloaded),
    ("anthropic", Frame(data=b'{"type":"error","error":{"type":"rate_limit_error"}}'), RateLimited),
    ("anthropic", Frame(data=b'{"type":"error","error":{"type":"invalid_request_error"}}'),
     ProviderRefused),
    ("anthropic", Frame(data=b'{"type":"error","error":{"type":"authentication_error"}}'),
     AuthFailed),
    ("anthropic", Frame(data=b'{"type":"error","error":{"type":"new_error"}}'), ProviderError),
    ("gemini", Frame(data=b'{"error":{"code":503,"message":"m","status":"UNAVAILABLE"}}'),
     Overloaded),
    ("vertex", Frame(data=b'{"error":{"code":429,"status":"RESOURCE_EXHAUSTED"}}'), RateLimited),
    ("cohere", Frame(data=b'{"message":"internal server error"}'), ProviderError),
    ("tgi", Frame(data=b'{"error":"m","error_type":"overloaded"}'), Overloaded),
    ("tgi", Frame(data=b'{"error":"m","error_type":"generation"}'), Overloaded),
    ("tgi", Frame(data=b'{"error":"m","error_type":"validation"}'), ProviderRefused),
    ("tgi", Frame(data=b'{"error":"m","error_type":"incomplete_generation"}'), ProviderError),
    *[("bedrock", Frame(name=name, data=b'{"message":"m"}', is_exception=True), kind)
      for name, kind in (
          ("internalServerException", Overloaded),
          ("throttlingException", RateLimited),
          ("serviceUnavailableException", Overloaded),
          ("validationException", ProviderRefused),
          ("somethingNewException", ProviderError),
      )],
    ("bedrock", Frame(name="modelStreamErrorException", is_exception=True,
                      data=b'{"message":"m","originalStatusCode":500}'), Overloaded),
    ("bedrock", Frame(name="throttlingException", is_exception=True, data=b""), RateLimited),
]  # fmt: skip


@pytest.mark.parametrize(("name", "frame", "kind"), STREAMED)
def test_an_error_inside_a_stream_is_raised_as_what_it_is(
    name: str, frame: Frame, kind: type[ProviderError]
) -> None:
    with pytest.raises(ProviderError) as error:
        dialect_for(name).decoder().feed(frame)
    assert type(error.value) is kind


@pytest.mark.parametrize(
    ("headers", "body", "delay_s"),
    [
        ({"retry-after-ms": "1500", "retry-after": "9"}, {}, 1.5),
        ({"retry-after": "20"}, {}, 20.0),
        ({"retry-after": "0.25"}, {}, 0.25),
        ({"retry-after": "-3"}, {}, 0.0),
        ({"retry-after": "1e30"}, {}, 86_400.0),
        ({"retry-after": "nan"}, {}, None),
        ({"retry-after": "soon"}, {}, None),
        ({}, {}, None),
        (
            {
                "retry-after": "Wed, 21 Oct 2026 07:28:30 GMT",
                "date": "Wed, 21 Oct 2026 07:28:00 GMT",
            },
            {},
            30.0,
        ),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT"}, {}, None),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 -0000", "date": "x"}, {}, None),
        ({}, google(429, "RESOURCE_EXHAUSTED", "m", {"retryDelay": "37s"}), 37.0),
        ({}, google(429, "RESOURCE_EXHAUSTED", "m", {"retryDelay": "0.5s"}), 0.5),
        ({}, google(429, "RESOURCE_EXHAUSTED", "m", {"retryDelay": "later"}), None),
        ({}, {"error": "loading", "estimated_time": 20.5}, 20.5),
    ],
)
def test_the_time_to_wait_is_read_wherever_it_stands(
    headers: dict[str, str], body: Any, delay_s: float | None
) -> None:
    for status, kind in ((429, RateLimited), (503, Overloaded)):
        error = dialect_for("gemini").error(status, headers, json.dumps(body).encode())
        assert isinstance(error, kind)
        assert error.retry_after_s == delay_s


def test_a_provider_may_forbid_or_ask_for_another_try() -> None:
    def told(status: int, says: str) -> ProviderError:
        return dialect_for("openai").error(status, {"x-should-retry": says}, b"{}")

    refused = told(429, "false")
    assert isinstance(refused, RateLimited)
    assert not refused.may_retry
    assert isinstance(told(400, "true"), Overloaded)
    assert isinstance(told(401, "true"), AuthFailed)
    assert isinstance(told(400, "false"), ProviderRefused)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("anthropic", "This model does not support assistant message prefill. The conversation "
                      "must end with a user message."),
        ("gemini", "Requests ending with a model turn are not supported unless the last part is a "
                   "function response."),
        ("openai", "Expected last role User or Tool (or Assistant with prefix True) for serving "
                   "but got assistant"),
        ("bedrock", "This model does not support assistant message prefill."),
    ],
)  # fmt: skip
def test_a_model_that_does_not_continue_a_turn_is_recognized(name: str, message: str) -> None:
    body = json.dumps({"error": {"message": message, "type": "invalid_request_error"}})
    error = dialect_for(name).error(400, {}, body.encode())
    assert isinstance(error, ProviderRefused)
    assert error.no_prefill
    assert error.unsupported is None
    other = dialect_for(name).error(400, {}, b'{"error":{"message":"bad schema"}}')
    assert isinstance(other, ProviderRefused)
    assert not other.no_prefill


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (openai("invalid_request_error", "unsupported_parameter", "Unsupported parameter: "
                "'max_tokens' is not supported with this model. Use 'max_completion_tokens' "
                "instead.", "max_tokens"), "max_tokens"),
        (openai("invalid_request_error", "unsupported_value", "Unsupported value: 'temperature' "
                "does not support 0.2 with this model.", "temperature"), "temperature"),
        (openai("invalid_request_error", None, "Unsupported parameter: 'max_tokens' is not "
                "supported with this model. Use 'max_completion_tokens' instead."), "max_tokens"),
        (openai("invalid_request_error", None, "Unrecognized request argument supplied: "
                "stream_options"), "stream_options"),
        (anthropic("invalid_request_error", "`temperature` is deprecated for this model."),
         "temperature"),
        (anthropic("invalid_request_error", "`temperature` and `top_p` cannot both be specified "
                   "for this model."), "temperature"),
        ({"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options"],
                      "msg": "Extra inputs are not permitted", "input": {"a": 1}}]},
         "stream_options"),
        (anthropic("invalid_request_error", "`temperature` may only be set to 1 when thinking is "
                   "enabled."), "temperature"),
        (openai("invalid_request_error", None, "temperature must be at most 2"), None),
        (openai("invalid_request_error", "invalid_value", "max_tokens is too large: 90000. This "
                "model does not support more than 16384.", "max_tokens"), None),
        (openai("invalid_request_error", None, "Unknown tool: weather"), None),
        (openai("invalid_request_error", "unsupported_parameter", "m", "parallel_tool_calls"),
         None),
    ],
)  # fmt: skip
def test_an_optional_field_that_a_model_does_not_take_is_named(body: Any, field: str) -> None:
    error = dialect_for("openai").error(400, {}, json.dumps(body).encode())
    assert isinstance(error, ProviderRefused)
    assert error.unsupported == field


SECRETS = ("sk-live-4f9a", "Dear diary, today", "patient_miller", "swordfish", "4711")
STATUSES = (200, 301, 400, 401, 402, 403, 404, 413, 422, 429, 500, 529)


@pytest.mark.parametrize("name", tuple(COMPANIES))
@pytest.mark.parametrize("secret", SECRETS)
def test_no_message_repeats_what_a_provider_repeats(name: str, secret: str) -> None:
    fields = dict.fromkeys(
        ("message", "type", "code", "param", "status", "reason", "detail", "error_type", "loc"),
        secret,
    )
    shapes: list[Any] = [
        fields,
        {"error": fields},
        {"error": secret},
        {"error": {**fields, "details": [fields], "innererror": fields}},
        {"error": {"code": f"invalid_api_key {secret}", "type": f"overloaded_error#{secret}"}},
        [{"error": fields}],
        {"detail": [{"loc": ["body", secret], "msg": secret, "type": secret}]},
        secret,
    ]
    headers = {"x-amzn-errortype": secret, "retry-after": secret, "x-should-retry": secret}
    bodies = [json.dumps(shape) for shape in shapes] + [f"<p>{secret}</p>"]
    dialect = dialect_for(name)
    for body in bodies:
        for status in STATUSES:
            assert secret not in str(dialect.error(status, headers, body.encode()))


@pytest.mark.parametrize("name", tuple(COMPANIES))
@pytest.mark.parametrize("secret", SECRETS)
def test_no_error_of_a_stream_repeats_it_either(name: str, secret: str) -> None:
    fields = {"message": secret, "type": secret, "code": secret, "error_type": secret}
    messages = []
    for value in ({"error": fields}, {"error": secret}, {"type": "error", **fields}, fields):
        data = json.dumps(value, indent=2).encode()
        for event in ("", "error", "message-end", secret):
            for exception in (False, True):
                frame = Frame(data=data, name=event, is_exception=exception)
                messages.append(_told(name, frame))
        with pytest.raises(ProviderError) as raised:
            dialect_for(name).decoder().end(data)
        messages.append(str(raised.value))
    assert any(messages)
    assert not [message for message in messages if secret in message]


def _told(name: str, frame: Frame) -> str:
    """The message of the error that *frame* leads to, if it leads to one."""
    try:
        dialect_for(name).decoder().feed(frame)
    except ProviderError as error:
        return str(error)
    return ""


def test_a_huge_or_deep_body_is_read_in_part_only() -> None:
    dialect = dialect_for("openai")
    deep = b"[" * 200_000
    wide = json.dumps({"error": {"message": "x" * 10_000_000}}).encode()
    many = json.dumps({"error": [{"code": "a_b"}] * 100_000}).encode()
    for body in (deep, wide, many, b"\xff" * 1_000_000, b"{" * 100_000):
        assert isinstance(dialect.error(500, {}, body), Overloaded)
        with pytest.raises(ProviderError):
            dialect.decoder().end(body)
