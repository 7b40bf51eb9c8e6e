"""Answers and errors in Ollama's shape: a JSON object in each line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar

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
from spillover.edge_server.wire import handoff
from spillover.edge_server.wire.dialect import (
    CallBuffer,
    Choice,
    StreamEncoder,
    WholeEncoder,
    arguments_object,
    check_complete,
    failure,
)
from spillover.edge_server.wire.errors import WireError
from spillover.edge_server.wire.llama_cpp.objects import waiting
from spillover.edge_server.wire.openai.chat import logprob_objects
from spillover.runtime.events import (
    Delta,
    Finished,
    Loading,
    Prefilling,
    Queued,
    ReasoningDelta,
    ToolCallDelta,
)
from spillover.runtime.request import ToolCall
from spillover.runtime.text.surrogates import valid_text

_json = msgspec.json.Encoder().encode
_NS_PER_MS = 1_000_000


class Shape(Struct, frozen=True, kw_only=True):
    """Where an endpoint puts what an answer is made of."""

    part: Callable[..., dict[str, Any]]
    """Fields of a text, a thinking and tool calls."""
    model: str
    events: bool = False
    """Send handoffs and what belongs to them, as lines without text."""
    progress: bool = False
    """Send how much of the prompt has been read, in the same way."""


def chat_part(
    text: str = "", thinking: str = "", calls: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """/api/chat's."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if thinking:
        message["thinking"] = thinking
    if calls:
        message["tool_calls"] = calls
    return {"message": message}


def generate_part(
    text: str = "", thinking: str = "", calls: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    """/api/generate's, which has no tools."""
    return {"response": text, **({"thinking": thinking} if thinking else {})}


def error_body(error: WireError) -> bytes:
    """{"error": "…"}, for whole bodies and lines alike."""
    return _json({"error": error.with_param})


def line(model: str, fields: Mapping[str, Any], *, done: bool = False) -> dict[str, Any]:
    """One object of an answer."""
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return {"model": model, "created_at": now, **fields, "done": done}


def ready(shape: Shape, reason: str) -> bytes:
    """The answer to a request without a prompt, which only loads or unloads the model."""
    return _json({**line(shape.model, shape.part(), done=True), "done_reason": reason})


def ending(event: Finished) -> dict[str, Any]:
    """Why the answer ended, and what it took. Raises WireError when it is not complete."""
    check_complete(event)
    usage, times = event.usage, event.timings
    legs = [handoff.leg(leg) for leg in usage.legs]
    total_ms = times.queue_ms + times.prefill_ms + times.decode_ms
    return {
        "done_reason": "length" if event.reason == "length" else "stop",
        "total_duration": int(total_ms * _NS_PER_MS),
        "load_duration": 0,
        "prompt_eval_count": usage.prompt_tokens,
        "prompt_eval_duration": int(times.prefill_ms * _NS_PER_MS),
        "eval_count": usage.completion_tokens,
        "eval_duration": int(times.decode_ms * _NS_PER_MS),
        **({"by_leg": legs} if legs else {}),
    }


def call_object(call: ToolCall, index: int) -> dict[str, Any]:
    """A call with its arguments as an object."""
    function = {"index": index, "name": call.name, "arguments": arguments_object(call)}
    return {"id": call.id, "function": function}


class LineStream(StreamEncoder):
    """A line for each piece; a call is sent when it is complete."""

    headers: ClassVar[Mapping[str, str]] = {
        "Content-Type": "application/x-ndjson",
        "Cache-Control": "no-cache, no-transform",
        "X-Accel-Buffering": "no",
    }
    error_body = staticmethod(error_body)

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self._shape = shape
        self._model = shape.model
        self._calls = CallBuffer()
        self._n_calls = 0

    def silence(self) -> bytes:
        """There are no comments: a line that adds nothing, where the owner wants signs of life."""
        return self.empty_event() if self.keep_alive == "event" else b""

    def empty_event(self) -> bytes:
        return self._line(self._shape.part())

    def error_event(self, error: WireError) -> bytes:
        return error_body(error) + b"\n"

    def feed(self, event: StreamEvent) -> bytes:
        if self._failed:
            return b""
        match event:
            case Delta(text=text) if text or event.logprobs:
                part = self._shape.part(valid_text(text))
                if event.logprobs:
                    part["logprobs"] = logprob_objects(event.logprobs)
                return self._line(part)
            case ReasoningDelta(text=text) if text:
                return self._line(self._shape.part(thinking=valid_text(text)))
            case ToolCallDelta():
                return self._complete(self._calls.add(event))
            case Finished():
                return self._finish(event)
            case Failed():
                return self.fail(failure(event))
            case Loading() | Prefilling() | Queued() if self._shape.progress:
                return self._line(self._shape.part(), **waiting(event))
            case Handoff() | Seam() | Replace():
                return self._routed(event)
            case ProviderFailed() | ConsentAsked() | ConsentAnswered():
                return self._routed(event)
        return b""

    def _routed(self, event: handoff.RouteEvent) -> bytes:
        if isinstance(event, Handoff):
            self._model = event.target.model
        if not self._shape.events:
            return b""
        return self._line(self._shape.part(), spillover=handoff.named(event)[1])

    def _complete(self, calls: list[ToolCall]) -> bytes:
        if not calls:
            return b""
        objects = [call_object(call, i) for i, call in enumerate(calls, self._n_calls)]
        self._n_calls += len(calls)
        return self._line(self._shape.part(calls=objects))

    def _finish(self, event: Finished) -> bytes:
        try:
            fields = ending(event)
        except WireError as error:
            return self.fail(error)
        calls = self._complete(self._calls.rest())
        return calls + self._line(self._shape.part(), done=True, **fields)

    def _line(self, part: dict[str, Any], *, done: bool = False, **fields: Any) -> bytes:
        return _json({**line(self._model, part, done=done), **fields}) + b"\n"


class LineWhole(WholeEncoder):
    """One object with all of the answer."""

    error_body = staticmethod(error_body)

    def __init__(self, shape: Shape) -> None:
        super().__init__([Choice()])
        self._shape = shape

    def body(self) -> bytes:
        choice, finished = self.choices[0], self.finished[0]
        calls = [call_object(call, i) for i, call in enumerate(choice.calls())]
        part = self._shape.part(
            valid_text("".join(choice.text)), valid_text("".join(choice.reasoning)), calls
        )
        whole = line(self.model or self._shape.model, part, done=True) | ending(finished)
        if choice.logprobs:
            whole["logprobs"] = logprob_objects(tuple(choice.logprobs))
        return _json(whole)
