"""Request bodies: JSON to typed requests, or a 400 that names the field."""

from __future__ import annotations

import codecs
import re
from functools import partial
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from spillover.cloud_fallback.events import HandoffMode
from spillover.cloud_fallback.route.allowed import Fallback, Place, Routing
from spillover.cloud_fallback.route.settings import RouteOptions
from spillover.edge_server.wire.dialect import AnswerPlan, AnswerRequest, Encoder
from spillover.edge_server.wire.errors import WireError, bad_request
from spillover.edge_server.wire.response_format import (
    ResponseFormatFields,
    with_field,
)
from spillover.runtime.decoders import decoder_of
from spillover.runtime.errors import InvalidRequest, ResponseFormatRefused
from spillover.runtime.events import Origin
from spillover.runtime.request import (
    MAX_TOKENS,
    AnswerDefaults,
    GenerationRequest,
    JsonSchema,
)
from spillover.runtime.sampling import MAX_LOGIT_BIAS, Sampling
from spillover.runtime.structured_output.limits import check_schema, with_bounds_that_travel
from spillover.runtime.text.surrogates import without_halves

MAX_MESSAGES = 4_096
"""Of one conversation."""


class StreamOptionsBody(Struct, frozen=True):
    include_usage: bool | None = None


class SpilloverBody(Struct, frozen=True, kw_only=True):
    """Our own part of a request: where the answer may be written, and what the client can see."""

    fallback: Fallback | None = None
    only: Place | None = None
    prefer: Origin | None = None
    mode: HandoffMode | None = None
    events: bool | None = None
    """Send handoff, seam, provider, consent and replace events."""
    resumable: bool | None = None
    """A broken connection does not end the stream: it can be taken up again."""


class CommonBody(ResponseFormatFields, frozen=True, kw_only=True):
    """What all dialects share. Unknown fields are ignored, null means the default; ranges are
    those of Sampling and GenerationRequest."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptionsBody | None = None
    return_progress: bool | None = None
    timings_per_token: bool | None = None
    post_sampling_probs: bool | None = None
    verbose: bool | None = None
    max_tokens: int | None = None
    n: int | None = None
    stop: str | tuple[str, ...] | None = None
    seed: int | None = None
    ignore_eos: bool | None = None
    cache_prompt: bool | None = None
    priority: str | int | None = None
    """background, or normal. vLLM's numbers are ignored."""
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repeat_penalty: float | None = None
    repetition_penalty: float | None = None
    repeat_last_n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    dry_penalty_last_n: int | None = None
    dry_sequence_breakers: tuple[str, ...] | None = None
    xtc_probability: float | None = None
    xtc_threshold: float | None = None
    logit_bias: dict[str, float] | None = None
    spillover: SpilloverBody | None = None

    def sent_as(self) -> dict[str, str]:
        """Names in this body of GenerationRequest's fields, where they differ."""
        return {} if self.repetition_penalty is None else {"repeat_penalty": "repetition_penalty"}


POLICIES = {
    "auto": Routing(),
    "local": Routing(prefer="local"),
    "private": Routing(only="local_only"),
    "cloud": Routing(prefer="cloud"),
}
"""Names of models that say who should write, for clients that can only choose a name."""


def route_options_of(body: CommonBody, asked: AnswerRequest) -> RouteOptions:
    """What the request wants of the route; it can only narrow what the device's owner set."""
    own = body.spillover or SpilloverBody()
    name = (body.model or "").removesuffix(":latest")  # as Ollama's clients write all names
    named = Routing() if asked.names_model else POLICIES.get(name, Routing())
    sees_events = asked.options.may_replace if own.events is None else own.events
    return replace(
        asked.options,
        routing=Routing(
            fallback=own.fallback,
            only=named.only or own.only,
            prefer=own.prefer or named.prefer,
        ),
        mode=own.mode,
        can_answer=(sees_events and bool(body.stream)) or own.fallback == "ask",
        may_replace=sees_events,
    )


def answer_plan(
    asked: AnswerRequest,
    body: CommonBody,
    requests: tuple[GenerationRequest, ...],
    encoder: Encoder,
    options: RouteOptions,
) -> AnswerPlan:
    """The plan with what *body* says of it besides."""
    wanted = body.asked_format()
    return AnswerPlan(
        requests=requests,
        encoder=encoder,
        options=options,
        resumable=_is_resumable(body, asked),
        format_field=None if wanted is None else wanted.field,
    )


def _is_resumable(body: CommonBody, asked: AnswerRequest) -> bool:
    """Whether the client may take its stream up again. A client may send the header with all of
    its requests; the field in the body is an error where there is no stream."""
    wanted = body.spillover.resumable if body.spillover else None
    if wanted and not body.stream:
        raise bad_request("only a stream can be resumable: set stream: true", "spillover.resumable")
    return bool(body.stream) and (asked.resume if wanted is None else wanted)


class _Named(Struct, frozen=True):
    model: Any = None


def model_named(body: bytes) -> str:
    """The model that *body* names; "" if it names none, or is none that can be read."""
    try:
        name = decoder_of(_Named).decode(body.removeprefix(codecs.BOM_UTF8)).model
    except msgspec.DecodeError:
        whole = without_halves(body)
        return "" if whole == body else model_named(whole)
    except (UnicodeDecodeError, RecursionError):
        return ""
    return name if isinstance(name, str) else ""


class LargeParts(Struct, frozen=True, kw_only=True):
    """The parts of a body that become many objects, as they are written."""

    logit_bias: msgspec.Raw = msgspec.Raw()
    chat_template_kwargs: msgspec.Raw = msgspec.Raw()
    response_format: msgspec.Raw = msgspec.Raw()
    json_schema: msgspec.Raw = msgspec.Raw()
    guided_json: msgspec.Raw = msgspec.Raw()
    guided_choice: msgspec.Raw = msgspec.Raw()
    structured_outputs: msgspec.Raw = msgspec.Raw()
    text: msgspec.Raw = msgspec.Raw()
    generationConfig: msgspec.Raw = msgspec.Raw()  # as Gemini's clients send it
    output_config: msgspec.Raw = msgspec.Raw()
    output_format: msgspec.Raw = msgspec.Raw()
    tools: msgspec.Raw = msgspec.Raw()
    functions: msgspec.Raw = msgspec.Raw()


_SMALL_BODY_BYTES = 1 << 16
_MOST_BYTES = {"logit_bias": 1 << 17, "chat_template_kwargs": 1 << 18}
_MOST_OTHER_BYTES = 1 << 20
"""Reading them takes some 60 ms, in which no stream of this process goes on."""


B = TypeVar("B")


def _bounded(body: bytes, kind: type[B]) -> B:
    """*body* as *kind*. A 400 for a part that is too large, before any of it is made."""
    if len(body) > _SMALL_BODY_BYTES:
        parts = decoder_of(LargeParts).decode(body)
        for field in LargeParts.__struct_fields__:
            limit = _MOST_BYTES.get(field, _MOST_OTHER_BYTES)
            if (n_bytes := len(memoryview(getattr(parts, field)))) > limit:
                message = f"{field} has {n_bytes} bytes, more than {limit}: shorten it"
                raise bad_request(message, field)
    return decoder_of(kind).decode(body)


def decode(body: bytes, kind: type[B]) -> B:
    """*body* as *kind*, or a 400 that names the field at fault."""
    body = body.removeprefix(codecs.BOM_UTF8)
    try:
        try:
            return _bounded(body, kind)
        except msgspec.ValidationError as error:
            if "got `float`" not in str(error) or len(body) > _MOST_OTHER_BYTES:
                raise
            return _bounded(_STRING_OR_NUMBER.sub(_as_integer, body), kind)
        except msgspec.DecodeError:
            whole = without_halves(body)
            if whole == body:
                raise
            return _bounded(whole, kind)
    except msgspec.ValidationError as error:
        raise _named(error) from error
    except msgspec.DecodeError as error:
        raise bad_request(f"the body is not valid JSON: {error}") from error
    except UnicodeDecodeError as error:
        raise bad_request("the body is not UTF-8") from error
    except RecursionError as error:
        raise bad_request("the body is nested too deeply") from error


_STRING_OR_NUMBER = re.compile(
    rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|-?[0-9]++(?P<rest>(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?)',
    re.DOTALL,
)
"""Each of them whole, so that no part of a body is read again and again: it may hold a number of a
million digits and, behind what is wrong, a text without an end."""


def _as_integer(found: re.Match[bytes]) -> bytes:
    """An integer as some languages write it (512.0, 1.0E7) as JSON has it."""
    if not found["rest"]:
        return found[0]
    value = float(found[0])
    return b"%d" % value if value.is_integer() and abs(value) < 2**63 else found[0]


def _named(error: msgspec.ValidationError) -> WireError:
    message, found, path = str(error).rpartition(" - at `$")
    if not found:
        message = str(error)
    param = path.rstrip("`").lstrip(".") if found else None
    code = None
    if message.startswith("Object missing required field"):
        param = ".".join(filter(None, (param, message.split("`")[1])))
        code = "missing_required_parameter"
    elif ", got `" in message:
        code = "invalid_type"
    return bad_request(f"{param}: {message}" if param else message, param, code)


def request_of(
    body: CommonBody, fields: dict[str, Any], defaults: AnswerDefaults
) -> GenerationRequest:
    """The request with *fields*, and with all that the dialects share, from *body*."""
    sampling = msgspec.structs.asdict(defaults.sampling) | {
        name: value
        for name in Sampling.__struct_fields__
        if (value := getattr(body, name, None)) is not None
    }
    if body.repetition_penalty is not None:
        sampling["repeat_penalty"] = body.repetition_penalty
    if body.top_k == -1:
        sampling["top_k"] = 0  # as llama.cpp and vLLM switch it off
    if body.seed is not None and body.seed < 0:
        sampling["seed"] = None  # as llama.cpp asks for a random one
    if body.logit_bias is not None:
        if len(body.logit_bias) > MAX_LOGIT_BIAS:
            message = f"logit_bias has {len(body.logit_bias)} tokens, more than {MAX_LOGIT_BIAS}"
            raise bad_request(message, "logit_bias")
        sampling["logit_bias"] = {token_id(name): bias for name, bias in body.logit_bias.items()}
    stop = (body.stop,) if isinstance(body.stop, str) else body.stop or ()
    wanted = body.asked_format()
    if fields["max_tokens"] is None:
        fields["max_tokens"] = defaults.max_tokens
    elif fields["max_tokens"] == -1 or fields["max_tokens"] > MAX_TOKENS:
        fields["max_tokens"] = None  # no limit: llama.cpp's -1, and the largest integer of others
    fields = {
        "n": 1 if body.n is None else body.n,
        **fields,
        "sampling": sampling,
        "stop": stop,
        "timings_per_token": bool(body.timings_per_token and body.stream),
        "post_sampling_probs": bool(body.post_sampling_probs),
        "ignore_eos": body.ignore_eos or False,
        "reuse_prefix": body.cache_prompt is not False,
        "priority": body.priority if isinstance(body.priority, str) else "normal",
        "response_format": None if wanted is None else wanted.response_format,
    }
    try:
        _check_schemas(fields)
        return msgspec.convert(fields, GenerationRequest).checked()
    except msgspec.ValidationError as error:
        raise _as_sent(_named(error), body) from error
    except InvalidRequest as error:
        named = with_field(error, None if wanted is None else wanted.field)
        if isinstance(named, WireError):
            raise named from error
        raise _as_sent(bad_request(str(error), error.param), body) from error


def _check_schemas(fields: dict[str, Any]) -> None:
    """Refuse large schemas before they are copied and sent to another process."""
    wanted = fields["response_format"]
    if isinstance(wanted, JsonSchema):
        check_schema(wanted.schema, ResponseFormatRefused)
        schema = with_bounds_that_travel(wanted.schema)
        fields["response_format"] = replace(wanted, schema=schema)
    for index, tool in enumerate(fields.get("tools", ())):
        param = f"tools[{index}].function.parameters"
        check_schema(tool["parameters"], partial(InvalidRequest, param=param))
        tool["parameters"] = with_bounds_that_travel(tool["parameters"])


def _as_sent(error: WireError, body: CommonBody) -> WireError:
    """*error* with the name that the field has in the body, not "sampling.top_k"."""
    param = (error.param or "").removeprefix("sampling.")
    message = str(error).removeprefix("sampling.")
    field, bracket, place = param.partition("[")
    name = body.sent_as().get(field, field) + bracket + place
    if message.startswith(f"{param}: "):
        message = name + message.removeprefix(param)
    return bad_request(message, name or None, error.code)


def token_id(name: str) -> int:
    """The token id in *name*, or a 400."""
    if not (name.isascii() and name.isdigit()) or len(name) > 10:
        raise bad_request(f"logit_bias: {name[:40]!r} is not a token id", "logit_bias")
    return int(name)
