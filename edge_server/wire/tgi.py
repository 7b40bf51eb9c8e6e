"""The dialect of Hugging Face's Text Generation Inference: a text, and what follows it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from spillover.cloud_fallback.events import Failed, StreamEvent
from spillover.edge_server.wire import sse
from spillover.edge_server.wire.dialect import (
    AnswerPlan,
    AnswerRequest,
    Choice,
    Encoder,
    StreamEncoder,
    WholeEncoder,
    check_complete,
    failure,
)
from spillover.edge_server.wire.errors import WireError, bad_request
from spillover.edge_server.wire.llama_cpp.objects import waiting
from spillover.edge_server.wire.request_body import (
    CommonBody,
    decode,
    request_of,
    route_options_of,
)
from spillover.edge_server.wire.response_format import AskedFormat
from spillover.runtime.events import (
    Delta,
    Finished,
    Loading,
    Prefilling,
    Queued,
    TokenLogprob,
    TopLogprob,
)
from spillover.runtime.request import MAX_TOP_LOGPROBS, JsonSchema, Regex
from spillover.runtime.text.surrogates import valid_text

DEFAULT_NEW_TOKENS = 100
_json = msgspec.json.Encoder().encode


class Grammar(Struct, frozen=True, kw_only=True):
    type: str
    value: Any = None


class Parameters(CommonBody, frozen=True, kw_only=True):
    """The object "parameters"."""

    max_new_tokens: int | None = None
    do_sample: bool | None = None
    best_of: int | None = None
    return_full_text: bool | None = None
    details: bool | None = None
    decoder_input_details: bool | None = None
    top_n_tokens: Annotated[int, Meta(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    truncate: int | None = None
    watermark: bool | None = None
    adapter_id: str | None = None
    grammar: Any = None

    def sent_as(self) -> dict[str, str]:
        names = {name: f"parameters.{name}" for name in self.__struct_fields__}
        names["repeat_penalty"] = "parameters.repetition_penalty"
        return {**names, "max_tokens": "parameters.max_new_tokens", "prompt": "inputs"}

    def asked_formats(self) -> Iterator[AskedFormat]:
        if self.grammar is None:
            return
        name = "parameters.grammar"
        try:
            wanted = msgspec.convert(self.grammar, Grammar)
        except msgspec.ValidationError as error:
            raise bad_request(f"{name}: {error}", name) from error
        if wanted.type in ("json", "json_schema") and isinstance(wanted.value, dict):
            inner = wanted.value.get("schema") if wanted.type == "json_schema" else None
            schema = inner if isinstance(inner, dict) else wanted.value
            yield AskedFormat(JsonSchema(schema=schema), name)
        elif wanted.type == "regex" and isinstance(wanted.value, str):
            yield AskedFormat(Regex(pattern=wanted.value), name)
        else:
            raise bad_request(f"{name} must be json with a schema, or regex with a pattern", name)


class TgiBody(Struct, frozen=True, kw_only=True):
    """POST /generate, /generate_stream and /."""

    inputs: str
    parameters: Parameters | None = None
    stream: bool | None = None


def plan_whole(asked: AnswerRequest) -> AnswerPlan:
    """POST /generate."""
    return _plan(asked, decode(asked.content, TgiBody), TgiWhole)


def plan_stream(asked: AnswerRequest) -> AnswerPlan:
    """POST /generate_stream."""
    return _plan(asked, decode(asked.content, TgiBody), TgiStream)


def plan_either(asked: AnswerRequest) -> AnswerPlan:
    """POST /, as the clients of Hugging Face's own endpoints do."""
    body = decode(asked.content, TgiBody)
    return _plan(asked, body, TgiStream if body.stream else TgiList)


def _plan(
    asked: AnswerRequest, body: TgiBody, kind: type[TgiWhole] | type[TgiStream]
) -> AnswerPlan:
    given = body.parameters or Parameters()
    for name in ("truncate", "watermark", "adapter_id", "decoder_input_details"):
        if getattr(given, name):
            raise bad_request(f"{name} is not supported", f"parameters.{name}")
    if given.best_of not in (None, 1):
        raise bad_request("best_of is not supported", "parameters.best_of")
    samplers = (given.temperature, given.top_k, given.top_p, given.typical_p)
    is_greedy = not given.do_sample and all(value is None for value in samplers)
    parameters = replace(given, temperature=0.0) if is_greedy else given
    longest = DEFAULT_NEW_TOKENS if given.max_new_tokens is None else given.max_new_tokens
    if longest == 0:
        name = "parameters.max_new_tokens"
        raise bad_request(f"{name} must be at least 1", name)
    shows_details = bool(given.details) or kind is TgiStream
    fields = {
        "n": 1,
        "prompt": body.inputs,
        "max_tokens": longest,
        "logprobs": (given.top_n_tokens or 0) if shows_details else None,
    }
    request = request_of(parameters, fields, asked.defaults)
    options = route_options_of(parameters, asked)
    told = Told(
        inputs=body.inputs if given.return_full_text else "",
        details=bool(given.details),
        progress=bool(given.return_progress),
        n_top=given.top_n_tokens or 0,
        seed=request.sampling.seed,
    )
    encoder: Encoder = kind(told)
    wanted = parameters.asked_format()
    return AnswerPlan(
        requests=(request,),
        encoder=encoder,
        options=replace(options, may_replace=False),
        format_field=None if wanted is None else wanted.field,
    )


class Told(Struct, frozen=True, kw_only=True):
    """What an answer says besides its tokens."""

    inputs: str
    """Before the text of the answer."""
    details: bool
    n_top: int
    seed: int | None
    progress: bool = False
    """Say how much of the prompt has been read, with tokens that have no text."""

    def token(self, record: TokenLogprob | TopLogprob, text: str | None = None) -> dict[str, Any]:
        shown = record.token.decode("utf-8", "replace") if text is None else text
        return {
            "id": record.token_id,
            "text": valid_text(shown),
            "logprob": record.logprob,
            "special": False,
        }

    def top(self, record: TokenLogprob) -> dict[str, Any]:
        return {"top_tokens": [self.token(top) for top in record.top]} if self.n_top else {}

    def ending(self, event: Finished) -> dict[str, Any]:
        """Details of an answer. Raises WireError when it is not complete."""
        check_complete(event)
        reason = "length" if event.reason == "length" else "eos_token"
        return {
            "finish_reason": "stop_sequence" if event.stop is not None else reason,
            "generated_tokens": event.usage.completion_tokens,
            "input_length": event.usage.prompt_tokens,
            "seed": self.seed,
        }


def error_body(error: WireError) -> bytes:
    """{"error": "…", "error_type": "…"}."""
    kinds = {429: "overloaded", 503: "overloaded", 499: "incomplete_generation"}
    usual = "validation" if error.status < 500 else "generation"
    words = "Input validation error: `inputs` must have less than {most} tokens. Given: {n}"
    kind = kinds.get(error.status, usual)
    return _json({"error": error.in_words(words), "error_type": kind})


_NO_TOKEN = {"id": 0, "text": "", "logprob": 0.0, "special": True}


class TgiStream(StreamEncoder):
    """An event for each token. The last one waits for the end, which it tells. Text that was held
    back comes with a later token."""

    error_body = staticmethod(error_body)

    def __init__(self, told: Told) -> None:
        super().__init__()
        self._told = told
        self._text: list[str] = []
        self._waiting: dict[str, Any] | None = None
        self._n_tokens = 0

    def empty_event(self) -> bytes:
        return sse.KEEP_ALIVE

    def feed(self, event: StreamEvent) -> bytes:
        if self._failed:
            return b""
        match event:
            case Delta():
                self._text.append(event.text)
                return b"".join(map(self._next, self._tokens(event)))
            case Loading() | Prefilling() | Queued() if self._told.progress:
                shown = {"index": 0, "token": _NO_TOKEN, "generated_text": None, "details": None}
                return sse.encode(_json({**shown, **waiting(event)}))
            case Finished():
                return self._finish(event)
            case Failed():
                return self.fail(failure(event))
        return b""

    def _tokens(self, event: Delta) -> Iterator[dict[str, Any]]:
        """The tokens of one delta; its text comes with the last one."""
        *others, last = event.logprobs or (None,)
        for record in others:
            if record is not None:
                yield {"token": self._told.token(record, ""), **self._told.top(record)}
        if last is not None:
            yield {"token": self._told.token(last, event.text), **self._told.top(last)}
        elif event.text:  # another writer's, who tells no tokens
            text = valid_text(event.text)
            yield {"token": {"id": 0, "text": text, "logprob": 0.0, "special": False}}

    def _next(self, token: dict[str, Any]) -> bytes:
        before, self._waiting = self._waiting, token
        return self._event(before) if before is not None else b""

    def _event(self, token: dict[str, Any], **ending: Any) -> bytes:
        self._n_tokens += 1
        rest = {"generated_text": None, "details": None, **ending}
        return sse.encode(_json({"index": self._n_tokens, **token, **rest}))

    def _finish(self, event: Finished) -> bytes:
        try:
            details = self._told.ending(event)
        except WireError as error:
            return self.fail(error)
        last = self._waiting or {"token": _NO_TOKEN}
        text = self._told.inputs + valid_text("".join(self._text))
        return self._event(last, generated_text=text, details=details)


class TgiWhole(WholeEncoder):
    """One object."""

    error_body = staticmethod(error_body)

    def __init__(self, told: Told) -> None:
        super().__init__([Choice()])
        self._told = told

    def body(self) -> bytes:
        return _json(self.answer())

    def answer(self) -> dict[str, Any]:
        choice, told = self.choices[0], self._told
        ending = told.ending(self.finished[0])
        answer: dict[str, Any] = {"generated_text": told.inputs + valid_text("".join(choice.text))}
        if told.details:
            del ending["input_length"]
            answer["details"] = {
                **ending,
                "prefill": [],
                "tokens": [told.token(record) for record in choice.logprobs],
                **(
                    {"top_tokens": [told.top(r)["top_tokens"] for r in choice.logprobs]}
                    if told.n_top
                    else {}
                ),
            }
        return answer


class TgiList(TgiWhole):
    """The same in a list."""

    def body(self) -> bytes:
        return _json([self.answer()])
