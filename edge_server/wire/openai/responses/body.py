"""OpenAI's Responses: bodies become requests."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, to_builtins
from msgspec.structs import replace

from spillover.edge_server.wire.dialect import AnswerPlan, AnswerRequest, Encoder
from spillover.edge_server.wire.errors import WireError, bad_request
from spillover.edge_server.wire.openai.responses.answer import ResponseStream, ResponseWhole, Told
from spillover.edge_server.wire.openai.responses.items import (
    Item,
    Part,
    content_fields,
    messages_of,
)
from spillover.edge_server.wire.openai.responses.store import StoredResponse
from spillover.edge_server.wire.openai.responses.tools import (
    ChosenTools,
    ResponseChoice,
    ResponseTool,
    chosen_tools,
    tools_in,
)
from spillover.edge_server.wire.request_body import (
    MAX_MESSAGES,
    CommonBody,
    answer_plan,
    decode,
    request_of,
    route_options_of,
)
from spillover.edge_server.wire.response_format import (
    AskedFormat,
    ResponseFormatBody,
    SchemaFormat,
    openai_format,
)
from spillover.runtime.request import GenerationRequest

MAX_METADATA = 16


class TextFormat(SchemaFormat, frozen=True, kw_only=True):
    """A response format without the level that chat completions have."""

    type: str = "text"


class TextBody(Struct, frozen=True, kw_only=True):
    format: TextFormat | None = None
    verbosity: str | None = None


class ReasoningBody(Struct, frozen=True, kw_only=True):
    effort: str | None = None
    summary: str | None = None


Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]],
    Meta(max_length=MAX_METADATA),
]


class ResponsesBody(CommonBody, frozen=True, kw_only=True):
    """POST /v1/responses."""

    input: str | Annotated[tuple[Item, ...], Meta(max_length=MAX_MESSAGES)] = ""
    instructions: str | tuple[Item, ...] | None = None
    max_output_tokens: int | None = None
    previous_response_id: str | None = None
    store: bool | None = None
    background: bool | None = None
    include: tuple[str, ...] | None = None
    text: TextBody | None = None
    reasoning: ReasoningBody | None = None
    tools: tuple[ResponseTool, ...] | None = None
    tool_choice: str | ResponseChoice | None = None
    parallel_tool_calls: bool | None = None
    top_logprobs: int | None = None
    metadata: Metadata | None = None
    conversation: Any = None
    prompt: Any = None

    def sent_as(self) -> dict[str, str]:
        return {
            **super().sent_as(),
            "max_tokens": "max_output_tokens",
            "logprobs": "top_logprobs",
            "messages": "input",
        }

    def asked_formats(self) -> Iterator[AskedFormat]:
        wanted = self.text.format if self.text else None
        if wanted is not None and wanted.type != "text":
            inner = ResponseFormatBody(type=wanted.type, json_schema=wanted)
            yield openai_format(inner, "text.format", "text.format.schema")
        yield from super().asked_formats()

    @property
    def is_stored(self) -> bool:
        return self.store is not False

    @property
    def asked(self) -> tuple[Item, ...]:
        if isinstance(self.input, str):
            part = Part(type="input_text", text=self.input)
            return (Item(role="user", content=(part,)),) if self.input else ()
        return self.input


def plan(asked: AnswerRequest) -> AnswerPlan:
    """POST /v1/responses."""
    body = decode(asked.content, ResponsesBody)
    is_background = bool(body.background)
    if is_background and not body.is_stored:
        raise bad_request("background: true needs store: true", "store")
    options = route_options_of(body, asked)
    items = _with_ids(_items(body, asked), options.id)
    tools, request = _request(body, items, asked)
    told = Told(
        id=options.id,
        fields=_echoed(body, asked.engine.name, request),
        namespaces=tools.namespaces,
        events=options.may_replace,
        progress=bool(body.return_progress),
        logprobs=request.logprobs is not None,
        store=asked.responses if body.is_stored else None,
        stored=StoredResponse(
            id=f"resp_{options.id}",
            owner=options.owner,
            body=b"",
            asked=items,
            n_asked_bytes=len(msgspec.json.encode(items)),
            previous=body.previous_response_id,
            runs=is_background,
        ),
    )
    encoder: Encoder
    encoder = ResponseStream(told) if body.stream or is_background else ResponseWhole(told)
    # An event has no place for text that is taken back, and neither has what is kept.
    options = replace(options, may_replace=False)
    planned = answer_plan(asked, body, (request,), encoder, options)
    if not is_background:
        return planned
    return replace(planned, resumable=True, background=True, streams=bool(body.stream))


def count_tokens(asked: AnswerRequest) -> dict[str, Any]:
    """POST /v1/responses/input_tokens: the length of the prompt, which is not answered."""
    body = decode(asked.content, ResponsesBody)
    _, request = _request(body, _items(body, asked), asked)
    n_tokens = asked.engine.apply_template(request).n_tokens
    return {"object": "response.input_tokens", "input_tokens": n_tokens}


def _items(body: ResponsesBody, asked: AnswerRequest) -> tuple[Item, ...]:
    """What is asked; those that are only referred to are found among the kept responses."""
    places = {item.id or "": i for i, item in enumerate(body.asked) if item.is_reference}
    found = asked.responses.items(places.keys(), asked.options.owner) if places else {}
    if missing := places.keys() - found.keys():
        name = min(missing)
        raise WireError(404, f"there is no item {name[:100]!r} here", f"input[{places[name]}]")
    return tuple(found[i.id or ""] if i.is_reference else i for i in body.asked)


def _request(
    body: ResponsesBody, items: tuple[Item, ...], asked: AnswerRequest
) -> tuple[ChosenTools, GenerationRequest]:
    for field in ("conversation", "prompt"):
        if getattr(body, field) is not None:
            raise bad_request(f"{field} names something that only OpenAI's servers have", field)
    before = asked.responses.conversation(body.previous_response_id, asked.options.owner)
    added = {tool.name: tool for tool in tools_in([*before, *items])}
    given = (*(t for t in body.tools or () if t.name not in added), *added.values())
    tools = chosen_tools(given, body.tool_choice, body.parallel_tool_calls)
    messages = [*messages_of(before), *messages_of(items)]
    if isinstance(body.instructions, str):
        messages.insert(0, {"role": "system", "content": body.instructions})
    elif body.instructions:
        messages = [*messages_of(body.instructions, "instructions"), *messages]
    if not messages:
        raise bad_request("input is empty: give a text or at least one item", "input")
    if len(messages) > MAX_MESSAGES:
        message = f"the conversation has {len(messages)} messages, more than {MAX_MESSAGES}"
        raise bad_request(message, "input")
    longest = body.max_tokens if body.max_output_tokens is None else body.max_output_tokens
    if longest == 0:
        raise bad_request("max_output_tokens must be at least 1", "max_output_tokens")
    wants_logprobs = body.top_logprobs is not None or (
        "message.output_text.logprobs" in (body.include or ())
    )
    effort = body.reasoning.effort if body.reasoning else None
    thinks = {} if effort is None else {"enable_thinking": effort not in ("none", "minimal")}
    fields = {
        "n": 1,
        "messages": messages,
        "max_tokens": longest,
        "logprobs": (body.top_logprobs or 0) if wants_logprobs else None,
        "template_kwargs": {} if effort is None else {"reasoning_effort": effort, **thinks},
        **tools.fields,
    }
    return tools, request_of(body, fields, asked.defaults)


def _with_ids(items: tuple[Item, ...], answer_id: str) -> tuple[Item, ...]:
    """The items as they are kept: each has an id."""
    return tuple(
        item if item.id else replace(item, id=f"in_{answer_id}_{place}")
        for place, item in enumerate(items)
    )


def _echoed(body: ResponsesBody, model: str, request: GenerationRequest) -> dict[str, Any]:
    """The fields of a response that repeat its request."""
    text = body.text or TextBody()
    instructions = body.instructions
    if isinstance(instructions, tuple):
        instructions = "\n".join(
            content_fields(i.content, "instructions")["content"] for i in instructions
        )
    reasoning = body.reasoning or ReasoningBody()
    return {
        "object": "response",
        "created_at": int(time.time()),
        "model": model,
        "background": bool(body.background),
        "instructions": instructions,
        "max_output_tokens": request.max_tokens,
        "max_tool_calls": None,
        "metadata": body.metadata or {},
        "parallel_tool_calls": request.parallel_tool_calls,
        "previous_response_id": body.previous_response_id,
        "reasoning": {"effort": reasoning.effort, "summary": reasoning.summary},
        "service_tier": "default",
        "store": body.is_stored,
        "temperature": request.sampling.temperature,
        "text": {"format": {"type": "text"} if text.format is None else to_builtins(text.format)},
        "tool_choice": "auto" if body.tool_choice is None else to_builtins(body.tool_choice),
        "tools": to_builtins(body.tools or ()),
        "top_logprobs": request.logprobs or 0,
        "top_p": request.sampling.top_p,
        "truncation": "disabled",
    }
