"""The dialect of Cohere's chat, version 2."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, field

from spillover.cloud_fallback.events import (
    ConsentAnswered,
    ConsentAsked,
    Failed,
    Handoff,
    ProviderFailed,
    Replace,
    Seam,
    StreamEvent,
)
from spillover.edge_server.wire import handoff, sse
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
from spillover.edge_server.wire.openai.chat import ChatMessage, ChatPart, conversation_of
from spillover.edge_server.wire.openai.tools import (
    CallBody,
    ToolBody,
    call_objects,
    tool_fields,
)
from spillover.edge_server.wire.request_body import (
    MAX_MESSAGES,
    CommonBody,
    answer_plan,
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
    ReasoningDelta,
    ToolCallDelta,
)
from spillover.runtime.request import JsonObject, JsonSchema
from spillover.runtime.text.surrogates import valid_text

_json = msgspec.json.Encoder().encode
_REASONS = {
    "stop": "COMPLETE",
    "length": "MAX_TOKENS",
    "tool_calls": "TOOL_CALL",
    "content_filter": "ERROR_TOXIC",
}


class ContentPart(Struct, frozen=True, kw_only=True):
    type: str
    text: str | None = None
    thinking: str | None = None
    document: Any = None
    image_url: Any = None


class MessageBody(Struct, frozen=True, kw_only=True):
    role: str
    content: str | tuple[ContentPart, ...] | None = None
    tool_calls: tuple[CallBody, ...] | None = None
    tool_call_id: str | None = None
    tool_plan: str | None = None


class Format(Struct, frozen=True, kw_only=True):
    type: str
    json_schema: dict[str, Any] | None = None
    schema: dict[str, Any] | None = None
    """Its older name."""


class Thinking(Struct, frozen=True, kw_only=True):
    type: str
    token_budget: Annotated[int, Meta(ge=0)] | None = None


class CohereBody(CommonBody, frozen=True, kw_only=True):
    """POST /v2/chat. Sampling parameters of other dialects work, too."""

    messages: Annotated[tuple[MessageBody, ...], Meta(min_length=1, max_length=MAX_MESSAGES)]
    stop: tuple[str, ...] | None = field(default=None, name="stop_sequences")
    top_k: int | None = field(default=None, name="k")
    top_p: float | None = field(default=None, name="p")
    logprobs: bool | None = None
    tools: tuple[ToolBody, ...] | None = None
    tool_choice: str | None = None
    strict_tools: bool | None = None
    response_format: Any = None
    thinking: Thinking | None = None
    documents: tuple[Any, ...] | None = None

    def sent_as(self) -> dict[str, str]:
        return {**super().sent_as(), "stop": "stop_sequences", "top_k": "k", "top_p": "p"} | {
            "thinking_budget": "thinking.token_budget"
        }

    def asked_formats(self) -> Iterator[AskedFormat]:
        if self.response_format is None:
            return
        try:
            wanted = msgspec.convert(self.response_format, Format)
        except msgspec.ValidationError as error:
            raise bad_request(f"response_format: {error}", "response_format") from error
        if wanted.type == "json_object":
            schema = wanted.schema if wanted.json_schema is None else wanted.json_schema
            found = JsonObject() if schema is None else JsonSchema(schema=schema)
            yield AskedFormat(found, "response_format")
        elif wanted.type != "text":
            name = "response_format.type"
            raise bad_request(f"{name} must be text or json_object", name)


def plan(asked: AnswerRequest) -> AnswerPlan:
    """POST /v2/chat."""
    body = decode(asked.content, CohereBody)
    if body.documents:
        raise bad_request("documents are not supported: put them into a message", "documents")
    if body.max_tokens == 0:
        raise bad_request("max_tokens must be at least 1", "max_tokens")
    messages = tuple(map(_message, body.messages))
    thinks = body.thinking is None or body.thinking.type != "disabled"
    fields = {
        "n": 1,
        "messages": conversation_of(messages),
        "max_tokens": body.max_tokens,
        "logprobs": 0 if body.logprobs else None,
        "template_kwargs": {} if body.thinking is None else {"enable_thinking": thinks},
        "thinking_budget": body.thinking.token_budget if body.thinking else None,
        **_tools(body),
    }
    request = request_of(body, fields, asked.defaults)
    options = route_options_of(body, asked)
    encoder: Encoder = CohereWhole(options.id)
    if body.stream:
        shown = {"events": options.may_replace, "progress": bool(body.return_progress)}
        encoder = CohereStream(options.id, **shown)
    return answer_plan(asked, body, (request,), encoder, options)


def _message(body: MessageBody) -> ChatMessage:
    parts = body.content if isinstance(body.content, tuple) else ()
    read = [_part(part) for part in parts if part.type != "thinking"]
    thoughts = [part.thinking for part in parts if part.type == "thinking" and part.thinking]
    return ChatMessage(
        role=body.role,
        content=body.content if isinstance(body.content, str) else tuple(read),
        tool_calls=body.tool_calls,
        tool_call_id=body.tool_call_id,
        reasoning_content="\n".join([*thoughts, *filter(None, [body.tool_plan])]),
    )


def _part(part: ContentPart) -> ChatPart:
    """The same as OpenAI's clients send it."""
    document = part.document
    if part.type == "document" and not isinstance(document, str):
        document = _json(document).decode()
    text = document if part.type == "document" else part.text or ""
    kind = "text" if part.type == "document" else part.type
    return ChatPart(type=kind, text=text, image_url=part.image_url)


def _tools(body: CohereBody) -> dict[str, Any]:
    fields = tool_fields(body.tools, None, None)
    if body.strict_tools:
        fields["tools"] = tuple({**tool, "strict": True} for tool in fields["tools"])
    if body.tool_choice is not None:
        if body.tool_choice not in ("REQUIRED", "NONE"):
            raise bad_request("tool_choice must be REQUIRED or NONE", "tool_choice")
        fields["tool_choice"] = body.tool_choice.lower()
    return fields


def error_body(error: WireError) -> bytes:
    """{"message": "…"}."""
    return _json({"message": error.in_words("too many tokens: {n} of at most {most}")})


def _finish_reason(event: Finished) -> str:
    """Why an answer ended. Raises WireError when it is not complete."""
    check_complete(event)
    return "STOP_SEQUENCE" if event.stop is not None else _REASONS[event.reason]


def _usage(event: Finished) -> dict[str, Any]:
    usage = event.usage
    counts = {"input_tokens": usage.prompt_tokens, "output_tokens": usage.completion_tokens}
    legs = [handoff.leg(leg) for leg in usage.legs]
    billed = [leg for leg in usage.legs if leg.writer.origin == "cloud"]
    return {
        "billed_units": {
            "input_tokens": sum(leg.prompt_tokens for leg in billed),
            "output_tokens": sum(leg.completion_tokens for leg in billed),
        },
        "tokens": counts,
        "cached_tokens": usage.cached_tokens,
        **({"by_leg": legs} if legs else {}),
    }


class CohereStream(StreamEncoder):
    """Events from message-start to message-end, and [DONE]. Contents and calls are numbered on
    their own."""

    error_body = staticmethod(error_body)

    def __init__(self, answer_id: str, *, events: bool, progress: bool = False) -> None:
        super().__init__()
        self._id = answer_id
        self._shows_events = events
        self._shows_progress = progress
        self._open: tuple[str, int] | None = None
        """What is open: a text, a thinking, or a call; and its number."""
        self._n_contents = 0

    def open(self) -> bytes:
        message = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": []}
        return self._event("message-start", id=self._id, delta={"message": message})

    def empty_event(self) -> bytes:
        return self._event("debug", prompt=None)

    def feed(self, event: StreamEvent) -> bytes:
        if self._failed:
            return b""
        match event:
            case Delta(text=text) if text:
                return self._content("text", text)
            case ReasoningDelta(text=text) if text:
                return self._content("thinking", text)
            case ToolCallDelta():
                return self._call(event)
            case Loading() | Prefilling() | Queued() if self._shows_progress:
                return self._event("debug", prompt=None, **waiting(event))
            case Finished():
                try:
                    reason = _finish_reason(event)
                except WireError as error:
                    return self.fail(error)
                ended = {"finish_reason": reason, "usage": _usage(event)}
                return self._close() + self._event("message-end", id=self._id, delta=ended)
            case Failed():
                return self.fail(failure(event))
            case Handoff() | Seam() | Replace() | ProviderFailed():
                return self._routed(event)
            case ConsentAsked() | ConsentAnswered():
                return self._routed(event)
        return b""

    def _routed(self, event: handoff.RouteEvent) -> bytes:
        if not self._shows_events:
            return b""
        name, content = handoff.named(event)
        return sse.encode_named(name, _json(content))

    def _content(self, kind: str, text: str) -> bytes:
        opened = b""
        if self._open is None or self._open[0] != kind:
            opened = self._close()
            self._open = kind, self._n_contents
            self._n_contents += 1
            opened += self._in_message("content-start", content={"type": kind, kind: ""})
        return opened + self._in_message("content-delta", content={kind: valid_text(text)})

    def _call(self, event: ToolCallDelta) -> bytes:
        function: dict[str, Any] = {"arguments": valid_text(event.arguments)}
        if self._open == ("call", event.index):
            return self._in_message("tool-call-delta", tool_calls={"function": function})
        closed = self._close()
        self._open = "call", event.index
        call = {"id": event.id, "type": "function", "function": {"name": event.name, **function}}
        return closed + self._in_message("tool-call-start", tool_calls=call)

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        kind, index = self._open
        self._open = None
        return self._event("tool-call-end" if kind == "call" else "content-end", index=index)

    def _in_message(self, name: str, **message: Any) -> bytes:
        assert self._open is not None
        return self._event(name, index=self._open[1], delta={"message": message})

    def error_event(self, error: WireError) -> bytes:
        delta = {"finish_reason": "ERROR", "error": str(error)}
        return self._event("message-end", id=self._id, delta=delta)

    def end(self) -> bytes:
        return b"" if self._failed else sse.DONE

    def _event(self, name: str, **fields: Any) -> bytes:
        return sse.encode_named(name, _json({"type": name, **fields}))


class CohereWhole(WholeEncoder):
    """One object."""

    error_body = staticmethod(error_body)

    def __init__(self, answer_id: str) -> None:
        super().__init__([Choice()])
        self._id = answer_id

    def body(self) -> bytes:
        choice, finished = self.choices[0], self.finished[0]
        contents = [
            {"type": kind, kind: valid_text("".join(parts))}
            for kind, parts in (("thinking", choice.reasoning), ("text", choice.text))
            if "".join(parts)
        ]
        message: dict[str, Any] = {"role": "assistant", "content": contents}
        if calls := choice.calls():
            message["tool_calls"] = call_objects(calls)
        scores = [
            {
                "token_ids": [record.token_id],
                "text": record.token.decode("utf-8", "replace"),
                "logprobs": [record.logprob],
            }
            for record in choice.logprobs
        ]
        happened = [handoff.named(event)[1] for event in self.route_events]
        return _json(
            {
                "id": self._id,
                "finish_reason": _finish_reason(finished),
                "message": message,
                "usage": _usage(finished),
                **({"logprobs": scores} if scores else {}),
                **({"model": self.model, "spillover": happened} if self.model else {}),
            }
        )
