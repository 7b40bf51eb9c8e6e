"""OpenAI's chat completions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from spillover.cloud_fallback.events import StreamEvent
from spillover.edge_server.wire.content import ContentParts
from spillover.edge_server.wire.dialect import AnswerPlan, AnswerRequest, Choice, Encoder
from spillover.edge_server.wire.errors import bad_request
from spillover.edge_server.wire.llama_cpp.objects import probabilities
from spillover.edge_server.wire.openai.answer import (
    OpenAIStream,
    OpenAIWhole,
    chunk_options,
    head_fields,
    verbose,
)
from spillover.edge_server.wire.openai.tools import (
    CallBody,
    CalledBody,
    ChoiceBody,
    FunctionBody,
    NameBody,
    ToolBody,
    call_delta,
    call_objects,
    calls_of,
    function_fields,
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
from spillover.runtime.events import (
    Delta,
    Finished,
    ReasoningDelta,
    TokenLogprob,
    ToolCallDelta,
)
from spillover.runtime.request import AnswerDefaults, GenerationRequest
from spillover.runtime.text.surrogates import valid_text


def plan(asked: AnswerRequest) -> AnswerPlan:
    """POST /v1/chat/completions."""
    body = decode(asked.content, ChatBody)
    request = chat_request(body, asked.defaults)
    options = route_options_of(body, asked)
    answer_id, model, n = f"chatcmpl-{asked.options.id}", asked.engine.name, request.n
    shown: tuple[dict[str, Any], ...] = ()
    if body.verbose:
        prompt = asked.engine.apply_template(request).text
        shown = verbose((request,), (prompt,), asked.engine, stream=bool(body.stream))
    encoder: Encoder
    if body.stream:
        head = head_fields("chat.completion.chunk", answer_id, model)
        stream = FunctionStream if body.functions else ChatStream
        encoder = stream(head, replace(chunk_options(body, options, n, n), last_fields=shown))
    else:
        head = head_fields("chat.completion", answer_id, model)
        whole = FunctionWhole if body.functions else ChatWhole
        head |= shown[0] if shown else {}
        encoder = whole(head, n, logprobs=request.logprobs is not None)
    return answer_plan(asked, body, (request,), encoder, options)


class ChatPart(Struct, frozen=True):
    """A part of a content; texts of earlier answers may come back as the Responses write them."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: Any = None
    """Of the types image_url and input_image: an object with a url, or the URL itself."""

    def read(self, content: ContentParts, param: str) -> None:
        """Add it to *content*, or a 400 that names it."""
        text = self.refusal if self.type == "refusal" else self.text
        if self.type in ("text", "input_text", "output_text", "refusal") and text is not None:
            content.add_text(text)
        elif self.type in ("image_url", "input_image"):
            image = self.image_url
            url = image.get("url") if isinstance(image, dict) else image
            content.add_url(url, f"{param}.image_url")
        else:
            reason = f"this server reads only texts and images, not {self.type!r}"
            raise bad_request(reason, param)


class ChatMessage(Struct, frozen=True):
    role: str
    content: str | tuple[ChatPart, ...] | None = None
    name: str | None = None
    tool_calls: tuple[CallBody, ...] | None = None
    function_call: CalledBody | None = None
    tool_call_id: str | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    images: tuple[str, ...] = ()
    """Base64, as Ollama's clients send them."""


class ChatBody(CommonBody, frozen=True, kw_only=True):
    """POST /v1/chat/completions."""

    messages: Annotated[tuple[ChatMessage, ...], Meta(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    reasoning_format: Literal["none", "auto", "deepseek"] | None = None
    thinking_budget_tokens: Annotated[int, Meta(ge=-1)] | None = None
    reasoning_budget: Annotated[int, Meta(ge=-1)] | None = None
    """Another name of the same; the first one counts where both are given."""
    modalities: tuple[str, ...] | None = None
    tools: tuple[ToolBody, ...] | None = None
    tool_choice: str | ChoiceBody | None = None
    parallel_tool_calls: bool | None = None
    functions: tuple[FunctionBody, ...] | None = None
    function_call: str | NameBody | None = None

    def sent_as(self) -> dict[str, str]:
        names = {
            "logprobs": "top_logprobs",
            "template_kwargs": "chat_template_kwargs",
            "thinking_budget": "reasoning_budget"
            if self.thinking_budget_tokens is None
            else "thinking_budget_tokens",
        }
        if self.max_completion_tokens is not None:
            names["max_tokens"] = "max_completion_tokens"
        return {**super().sent_as(), **names}


def chat_request(body: ChatBody, defaults: AnswerDefaults) -> GenerationRequest:
    """The request of a chat completion."""
    logprobs = None
    if body.logprobs:
        logprobs = body.top_logprobs or 0
    elif body.top_logprobs:
        raise bad_request("top_logprobs needs logprobs: true", "top_logprobs")
    if body.modalities and body.modalities != ("text",):
        raise bad_request("this model answers only with text", "modalities")
    longest, budget = body.max_completion_tokens, body.thinking_budget_tokens
    budget = body.reasoning_budget if budget is None else budget
    fields = {
        "messages": conversation_of(body.messages),
        "max_tokens": body.max_tokens if longest is None else longest,
        "logprobs": logprobs,
        "continue_final_message": _continues(body, defaults),
        "add_generation_prompt": body.add_generation_prompt is not False,
        "template_kwargs": _template_kwargs(body),
        "split_reasoning": body.reasoning_format != "none",
        "thinking_budget": None if budget == -1 else budget,
        **_tool_fields(body),
    }
    if fields["max_tokens"] == 0:
        name = body.sent_as().get("max_tokens", "max_tokens")
        raise bad_request(f"{name} must be at least 1", name)
    if body.add_generation_prompt and body.continue_final_message:
        message = "add_generation_prompt and continue_final_message exclude each other"
        raise bad_request(message, "add_generation_prompt")
    return request_of(body, fields, defaults)


def _continues(body: ChatBody, defaults: AnswerDefaults) -> bool:
    """Whether the answer goes on with the last message; an assistant's may by default."""
    if body.continue_final_message is not None or body.add_generation_prompt:
        return bool(body.continue_final_message)
    return defaults.prefill_assistant and body.messages[-1].role == "assistant"


def _tool_fields(body: ChatBody) -> dict[str, Any]:
    if not body.functions:
        return tool_fields(body.tools, body.tool_choice, body.parallel_tool_calls)
    if body.tools:
        raise bad_request("functions and tools exclude each other: give tools", "functions")
    return function_fields(body.functions, body.function_call)


def _template_kwargs(body: ChatBody) -> dict[str, Any]:
    """Variables for the model's template; the body's own chat_template_kwargs win."""
    effort = body.reasoning_effort
    if effort is None:
        return body.chat_template_kwargs or {}
    thinks = effort not in ("none", "minimal")
    usual = {"reasoning_effort": effort, "enable_thinking": thinks}
    return usual | (body.chat_template_kwargs or {})


def conversation_of(messages: tuple[ChatMessage, ...]) -> tuple[dict[str, Any], ...]:
    """The messages; a tool's result without an id answers the next call that has no result."""
    given: list[dict[str, Any]] = []
    unanswered: list[str] = []
    for index, body in enumerate(messages):
        message = _message(body, index)
        given.append(message)
        if message["role"] == "tool":
            if message["tool_call_id"] is None and unanswered:
                message["tool_call_id"] = unanswered[0]
            unanswered = [i for i in unanswered if i != message["tool_call_id"]]
        else:
            unanswered = [call["id"] for call in message["tool_calls"]]
    return tuple(given)


def _message(message: ChatMessage, index: int) -> dict[str, Any]:
    content = ContentParts()
    for place, data in enumerate(message.images):
        content.add_base64(data, f"messages[{index}].images[{place}]")
    if isinstance(message.content, tuple):
        for place, part in enumerate(message.content):
            part.read(content, f"messages[{index}].content[{place}]")
    elif message.content:
        content.add_text(message.content)
    calls = message.tool_calls or ()
    if not calls and message.function_call is not None:
        calls = (CallBody(function=message.function_call),)
    return {
        "role": "tool" if message.role == "function" else message.role,
        **content.fields,
        "name": message.name,
        "tool_calls": calls_of(calls, index),
        "tool_call_id": message.tool_call_id,
        "reasoning": _reasoning(message),
    }


def _reasoning(message: ChatMessage) -> str | None:
    """As DeepSeek and we name it, or as vLLM and OpenRouter do; other shapes are ignored."""
    names = (message.reasoning_content, message.reasoning)
    return next((text for text in names if isinstance(text, str) and text), None)


class ChatStream(OpenAIStream):
    """chat.completion.chunk objects; the first of each choice carries the role."""

    def open(self) -> bytes:
        delta = {"delta": {"role": "assistant", "content": None}, "finish_reason": None}
        return b"".join(self._chunk(delta, index) for index in range(self._options.n))

    def _delta(self, event: Delta | ReasoningDelta) -> dict[str, Any]:
        field = "content" if isinstance(event, Delta) else "reasoning_content"
        return self._with_logprobs({field: valid_text(event.text)}, event)

    def _call(self, event: ToolCallDelta) -> dict[str, Any]:
        return self._with_logprobs({"tool_calls": [call_delta(event)]}, event)

    def _with_logprobs(
        self, delta: dict[str, Any], event: Delta | ReasoningDelta | ToolCallDelta
    ) -> dict[str, Any]:
        choice: dict[str, Any] = {"delta": delta, "finish_reason": None}
        if event.logprobs:
            choice["logprobs"] = _logprobs(event.logprobs)
        return choice

    def _empty_choice(self) -> dict[str, Any]:
        return {"delta": {}}


class ChatWhole(OpenAIWhole):
    """One chat.completion object."""

    def __init__(self, head: dict[str, Any], n: int, *, logprobs: bool) -> None:
        super().__init__(head, [Choice() for _ in range(n)], n)
        self._logprobs = logprobs

    def _shape(self, number: int) -> dict[str, Any]:
        choice = self.choices[number]
        text = valid_text("".join(choice.text))
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if calls := choice.calls():
            message |= {"content": text or None, "tool_calls": call_objects(calls)}
        if choice.reasoning:
            message["reasoning_content"] = valid_text("".join(choice.reasoning))
        return {
            "message": message,
            "logprobs": _logprobs(tuple(choice.logprobs)) if self._logprobs else None,
        }


class FunctionStream(ChatStream):
    """Answers a request with functions, which preceded tools: one call without an id."""

    def feed(self, event: StreamEvent) -> bytes:
        if isinstance(event, ToolCallDelta) and event.index > 0:
            return b""
        return super().feed(event)

    def _call(self, event: ToolCallDelta) -> dict[str, Any]:
        return self._with_logprobs({"function_call": call_delta(event)["function"]}, event)

    def _finish_reason(self, event: Finished) -> str:
        return _function_reason(event)


class FunctionWhole(ChatWhole):
    """The same as one object."""

    def _shape(self, number: int) -> dict[str, Any]:
        shaped = super()._shape(number)
        if calls := shaped["message"].pop("tool_calls", None):
            shaped["message"]["function_call"] = calls[0]["function"]
        return shaped

    def _finish_reason(self, event: Finished) -> str:
        return _function_reason(event)


def _function_reason(event: Finished) -> str:
    return "function_call" if event.reason == "tool_calls" else event.reason


def _logprobs(records: tuple[TokenLogprob, ...]) -> dict[str, Any]:
    return {"content": logprob_objects(records)}


def logprob_objects(records: tuple[TokenLogprob, ...]) -> list[dict[str, Any]]:
    """One object for each token."""
    return [
        probabilities(record)
        if record.sampled
        else {
            **_token(record.token, record.logprob),
            "top_logprobs": [_token(top.token, top.logprob) for top in record.top],
        }
        for record in records
    ]


def _token(token: bytes, logprob: float) -> dict[str, Any]:
    return {"token": token.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(token)}
