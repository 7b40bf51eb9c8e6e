"""Answers and errors in the shape of Anthropic's Messages."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Struct

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
    Choice,
    StreamEncoder,
    WholeEncoder,
    arguments_object,
    check_complete,
    failure,
)
from spillover.edge_server.wire.errors import WireError
from spillover.edge_server.wire.llama_cpp.objects import waiting
from spillover.runtime.events import (
    Delta,
    Finished,
    Loading,
    Prefilling,
    Queued,
    ReasoningDelta,
    ToolCallDelta,
    Usage,
)
from spillover.runtime.text.surrogates import valid_text

_json = msgspec.json.Encoder().encode
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_STOP_REASONS = {"stop": "end_turn", "tool_calls": "tool_use", "content_filter": "refusal"}

Kind: TypeAlias = Literal["text", "thinking", "tool_use"]


class Told(Struct, frozen=True, kw_only=True):
    """What an answer says besides its text."""

    id: str
    model: str
    max_tokens: int | None
    thinking: bool
    """Show reasoning. Clients that did not ask for it expect none."""
    events: bool
    """Send handoffs and what belongs to them, as named events."""
    progress: bool = False
    """Say in pings how much of the prompt has been read."""

    def message(self, content: list[Any], **fields: Any) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": None,
            "stop_sequence": None,
            **fields,
        }

    def ending(self, event: Finished) -> dict[str, Any]:
        """Why the answer ended. Raises WireError when it is not complete."""
        check_complete(event)
        reason = _STOP_REASONS.get(event.reason)
        if event.reason == "stop" and event.stop is not None:
            reason = "stop_sequence"
        elif event.reason == "length":
            n = event.usage.completion_tokens
            fits = self.max_tokens is None or n < self.max_tokens
            reason = "model_context_window_exceeded" if fits else "max_tokens"
        return {"stop_reason": reason, "stop_sequence": event.stop}


def error_body(error: WireError) -> bytes:
    """{"type": "error", "error": {…}}, for whole bodies and events alike."""
    kind = _TYPES.get(error.status, "api_error" if error.status > 500 else "invalid_request_error")
    message = error.in_words("prompt is too long: {n} tokens > {most} maximum")
    return _json({"type": "error", "error": {"type": kind, "message": message}})


def usage(n_prompt: int, n_cached: int, n_completion: int) -> dict[str, Any]:
    """Anthropic counts the tokens that were read anew and those from a cache apart."""
    return {
        "input_tokens": max(n_prompt - n_cached, 0),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": n_cached,
        "output_tokens": n_completion,
    }


def _final_usage(value: Usage) -> dict[str, Any]:
    legs = [handoff.leg(leg) for leg in value.legs]
    counts = usage(value.prompt_tokens, value.cached_tokens, value.completion_tokens)
    return {**counts, **({"by_leg": legs} if legs else {})}


class MessageStream(StreamEncoder):
    """message_start, the blocks, message_delta and message_stop. The start waits for the first
    event that knows how long the prompt is."""

    error_body = staticmethod(error_body)

    def __init__(self, told: Told) -> None:
        super().__init__()
        self._told = told
        self._model = told.model
        self._started = False
        self._n_prompt = 0
        self._block: tuple[Kind, int] | None = None
        """The open block's kind, and the number of its call."""
        self._n_blocks = 0
        self._frame = b""

    def silence(self) -> bytes:
        if self._started and self.keep_alive == "comment":
            return self.empty_event()
        return super().silence()

    def empty_event(self) -> bytes:
        return _event("ping")

    def error_event(self, error: WireError) -> bytes:
        return sse.encode_named("error", error_body(error))

    def feed(self, event: StreamEvent) -> bytes:
        if self._failed:
            return b""
        match event:
            case Loading() if self._told.progress:
                return _event("ping", **waiting(event))
            case Queued():
                self._n_prompt = event.n_prompt_tokens
            case Prefilling():
                told = _event("ping", **waiting(event)) if self._told.progress else b""
                return self._start(event.n_cached) + told
            case Delta(text=text) if text:
                return self._text("text", text)
            case ReasoningDelta(text=text) if text and self._told.thinking:
                return self._text("thinking", text)
            case ToolCallDelta():
                return self._call(event)
            case Finished():
                return self._finish(event)
            case Failed():
                return self.fail(failure(event))
            case Handoff() | Seam() | Replace() | ProviderFailed():
                return self._routed(event)
            case ConsentAsked() | ConsentAnswered():
                return self._routed(event)
        return b""

    def _start(self, n_cached: int = 0) -> bytes:
        if self._started:
            return b""
        self._started = True
        counts = usage(self._n_prompt, n_cached, 0)
        return _event("message_start", message=self._told.message([], usage=counts))

    def _text(self, kind: Kind, text: str) -> bytes:
        """Only the text differs from one such event to the next."""
        opened = self._open(kind)
        if opened:
            sample = {"type": f"{kind}_delta", kind: "\0"}
            self._frame = _event("content_block_delta", index=self._n_blocks - 1, delta=sample)
        before, _, after = self._frame.partition(b'"\\u0000"')
        return b"%b%b%b%b" % (opened, before, sse.one_line(_json(valid_text(text))), after)

    def _call(self, event: ToolCallDelta) -> bytes:
        opened = self._open("tool_use", event.index, id=event.id, name=event.name, input={})
        if not event.arguments:
            return opened
        delta = {"type": "input_json_delta", "partial_json": valid_text(event.arguments)}
        return opened + _event("content_block_delta", index=self._n_blocks - 1, delta=delta)

    def _open(self, kind: Kind, call: int = 0, **fields: Any) -> bytes:
        """Begin a block, unless this one is open."""
        if self._block == (kind, call):
            return b""
        empty = {"text": {"text": ""}, "thinking": {"thinking": "", "signature": ""}}
        block = {"type": kind, **(fields or empty[kind])}
        before = self._start() + self._close()
        self._block = kind, call
        self._n_blocks += 1
        return before + _event("content_block_start", index=self._n_blocks - 1, content_block=block)

    def _close(self) -> bytes:
        if self._block is None:
            return b""
        (kind, _), self._block = self._block, None
        index, signature = self._n_blocks - 1, b""
        if kind == "thinking":  # empty, but clients drop a thinking without one
            delta = {"type": "signature_delta", "signature": ""}
            signature = _event("content_block_delta", index=index, delta=delta)
        return signature + _event("content_block_stop", index=index)

    def _finish(self, event: Finished) -> bytes:
        try:
            ending = self._told.ending(event)
        except WireError as error:
            return self.fail(error)
        model = {} if self._model == self._told.model else {"model": self._model}
        return b"".join(
            (
                self._start(event.usage.cached_tokens),
                self._close(),
                _event("message_delta", delta=ending, usage=_final_usage(event.usage), **model),
                _event("message_stop"),
            )
        )

    def _routed(self, event: handoff.RouteEvent) -> bytes:
        if isinstance(event, Handoff):
            self._model = event.target.model
        if not self._told.events:
            return b""
        name, content = handoff.named(event)
        return sse.encode_named(name, _json(content))


class MessageWhole(WholeEncoder):
    """One message object."""

    error_body = staticmethod(error_body)

    def __init__(self, told: Told) -> None:
        super().__init__([Choice()])
        self._told = told

    def body(self) -> bytes:
        finished = self.finished[0]
        fields = self._told.ending(finished) | {"usage": _final_usage(finished.usage)}
        if self.model:
            happened = [handoff.named(event)[1] for event in self.route_events]
            fields |= {"model": self.model, "spillover": happened}
        return _json(self._told.message(self._content(), **fields))

    def _content(self) -> list[dict[str, Any]]:
        choice = self.choices[0]
        reasoning, text = "".join(choice.reasoning), "".join(choice.text)
        content: list[dict[str, Any]] = []
        if reasoning and self._told.thinking:
            thinking = valid_text(reasoning)
            content.append({"type": "thinking", "thinking": thinking, "signature": ""})
        if text:
            content.append({"type": "text", "text": valid_text(text)})
        content += [
            {
                "type": "tool_use",
                "id": call.id,
                "name": call.name,
                "input": arguments_object(call),
            }
            for call in choice.calls()
        ]
        return content


def _event(name: str, **fields: Any) -> bytes:
    return sse.encode_named(name, _json({"type": name, **fields}))
