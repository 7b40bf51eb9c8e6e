"""Anthropic's Messages: bodies become requests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from msgspec import Meta, Struct, field

from spillover.edge_server.wire.anthropic.answer import MessageStream, MessageWhole, Told
from spillover.edge_server.wire.anthropic.blocks import Content, MessageBody, messages_of
from spillover.edge_server.wire.dialect import AnswerPlan, AnswerRequest, Encoder
from spillover.edge_server.wire.errors import bad_request
from spillover.edge_server.wire.request_body import (
    MAX_MESSAGES,
    CommonBody,
    answer_plan,
    decode,
    request_of,
    route_options_of,
)
from spillover.edge_server.wire.response_format import AskedFormat
from spillover.runtime.engine import TextEngine
from spillover.runtime.request import AnswerDefaults, GenerationRequest, JsonSchema

THINKING = ("enabled", "adaptive", "between_tools", "disabled")


class Thinking(Struct, frozen=True, kw_only=True):
    type: str
    budget_tokens: Annotated[int, Meta(ge=0)] | None = None


class ToolBody(Struct, frozen=True, kw_only=True):
    """A tool of the client's, or with another type one that Anthropic's servers would run."""

    name: str = ""
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None

    @property
    def is_client_side(self) -> bool:
        return self.type in (None, "custom")


class ChoiceBody(Struct, frozen=True, kw_only=True):
    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class FormatBody(Struct, frozen=True, kw_only=True):
    type: str
    schema: dict[str, Any] | None = None


class OutputConfig(Struct, frozen=True, kw_only=True):
    format: FormatBody | None = None
    effort: str | None = None


class MessagesBody(CommonBody, frozen=True, kw_only=True):
    """POST /v1/messages. Sampling parameters of other dialects work, too."""

    messages: Annotated[tuple[MessageBody, ...], Meta(min_length=1, max_length=MAX_MESSAGES)]
    system: Content = None
    stop: tuple[str, ...] | None = field(default=None, name="stop_sequences")
    thinking: Thinking | None = None
    tools: tuple[ToolBody, ...] | None = None
    tool_choice: ChoiceBody | None = None
    output_config: OutputConfig | None = None
    output_format: FormatBody | None = None

    @property
    def shows_thinking(self) -> bool:
        return self.thinking is not None and self.thinking.type != "disabled"

    def sent_as(self) -> dict[str, str]:
        names = {"stop": "stop_sequences", "thinking_budget": "thinking.budget_tokens"}
        return {**super().sent_as(), **names}

    def asked_formats(self) -> Iterator[AskedFormat]:
        inner = self.output_config.format if self.output_config else None
        for name, wanted in (
            ("output_config.format", inner),
            ("output_format", self.output_format),
        ):
            if wanted is None:
                continue
            if wanted.type != "json_schema" or wanted.schema is None:
                raise bad_request(f"{name} must have a json_schema's schema", name)
            yield AskedFormat(JsonSchema(schema=wanted.schema), f"{name}.schema")
        yield from super().asked_formats()


def plan(asked: AnswerRequest) -> AnswerPlan:
    """POST /v1/messages."""
    body = decode(asked.content, MessagesBody)
    if body.max_tokens is None:
        raise bad_request("max_tokens is missing", "max_tokens", "missing_required_parameter")
    request = _request(body, asked.defaults)
    options = route_options_of(body, asked)
    told = Told(
        id=f"msg_{options.id}",
        model=asked.engine.name,
        max_tokens=request.max_tokens,
        thinking=body.shows_thinking,
        events=options.may_replace,
        progress=bool(body.return_progress),
    )
    encoder: Encoder = MessageStream(told) if body.stream else MessageWhole(told)
    return answer_plan(asked, body, (request,), encoder, options)


def count_tokens(content: bytes, engine: TextEngine, defaults: AnswerDefaults) -> dict[str, int]:
    """POST /v1/messages/count_tokens: the length of the prompt, which is not answered."""
    request = _request(decode(content, MessagesBody), defaults)
    return {"input_tokens": engine.apply_template(request).n_tokens}


def _request(body: MessagesBody, defaults: AnswerDefaults) -> GenerationRequest:
    messages = messages_of(body.system, body.messages)
    last = messages[-1]
    fields = {
        "n": 1,
        "messages": messages,
        "max_tokens": body.max_tokens,
        # As Anthropic does: a last message of the assistant is the beginning of the answer.
        "continue_final_message": (
            last["role"] == "assistant" and bool(last["content"]) and not last.get("tool_calls")
        ),
        "template_kwargs": _template_kwargs(body),
        "thinking_budget": body.thinking.budget_tokens if body.thinking else None,
        **_tool_fields(body),
    }
    if body.max_tokens == 0:
        raise bad_request("max_tokens must be at least 1", "max_tokens")
    return request_of(body, fields, defaults)


def _template_kwargs(body: MessagesBody) -> dict[str, Any]:
    """As with Anthropic, a model thinks only where the request says so."""
    if body.thinking is not None and body.thinking.type not in THINKING:
        raise bad_request(f"thinking.type must be one of {', '.join(THINKING)}", "thinking.type")
    effort = body.output_config.effort if body.output_config else None
    chosen = {} if effort is None else {"reasoning_effort": effort}
    return {"enable_thinking": body.shows_thinking, **chosen}


def _tool_fields(body: MessagesBody) -> dict[str, Any]:
    """Tools that Anthropic's servers would run are left out: nobody here can."""
    tools = tuple(
        {
            "name": tool.name,
            "description": tool.description or "",
            "parameters": tool.input_schema or {},
            "strict": bool(tool.strict),
        }
        for tool in body.tools or ()
        if tool.is_client_side
    )
    choice = body.tool_choice
    if choice is None or not tools:
        return {"tools": tools}
    chosen: dict[str, Any] = {"tools": tools, "tool_choice": _choice(choice)}
    if choice.disable_parallel_tool_use is not None:
        chosen["parallel_tool_calls"] = not choice.disable_parallel_tool_use
    return chosen


def _choice(choice: ChoiceBody) -> str | dict[str, str]:
    if choice.type == "tool":
        if choice.name is None:
            raise bad_request("tool_choice.name is missing", "tool_choice.name")
        return {"name": choice.name}
    words = {"auto": "auto", "any": "required", "none": "none"}
    if choice.type not in words:
        raise bad_request("tool_choice.type must be auto, any, tool or none", "tool_choice.type")
    return words[choice.type]
