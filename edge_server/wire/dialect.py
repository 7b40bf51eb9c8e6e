"""The contract of a dialect of the endpoint: it plans an answer, encodes it, and shapes errors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, TypeAlias

import msgspec
from msgspec import Struct

from spillover.cloud_fallback.events import (
    Failed,
    Handoff,
    ProviderFailed,
    Replace,
    Seam,
    StreamEvent,
)
from spillover.cloud_fallback.route.settings import RouteOptions
from spillover.edge_server.wire import sse
from spillover.edge_server.wire.errors import WireError, failed
from spillover.edge_server.wire.openai.responses.store import ResponseStore
from spillover.runtime.embedding_request import EngineRequest
from spillover.runtime.engine import TextEngine
from spillover.runtime.events import Delta, Finished, ReasoningDelta, TokenLogprob, ToolCallDelta
from spillover.runtime.request import AnswerDefaults, ToolCall
from spillover.runtime.text.surrogates import valid_text, without_halves

SSE_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}
KeepAlive: TypeAlias = Literal["comment", "event", "off"]
"""What a silent stream gets. Some readers count only events as life, others break on comments."""
ErrorBody: TypeAlias = Callable[[WireError], bytes]


class Encoder(ABC):
    """Encodes one answer. A stream's bytes come from every method, those of a whole answer from
    end() or fail() alone."""

    is_stream: ClassVar[bool]
    headers: ClassVar[Mapping[str, str]]

    def open(self) -> bytes:
        """What precedes the first event's bytes."""
        return b""

    @abstractmethod
    def feed(self, event: StreamEvent) -> bytes:
        """The bytes of one event; often none."""

    def silence(self) -> bytes:
        """What shows a client that its stream is alive, and finds out whether the client is."""
        return b""

    @abstractmethod
    def end(self) -> bytes:
        """What follows the last event; nothing after a failure. A whole answer that is not
        complete raises WireError."""

    @abstractmethod
    def fail(self, error: WireError) -> bytes:
        """The error in the dialect's shape; nothing follows it."""

    @staticmethod
    @abstractmethod
    def error_body(error: WireError) -> bytes:
        """The JSON of an error in the dialect's shape."""


class StreamEncoder(Encoder):
    """Encodes a stream of server-sent events."""

    is_stream = True
    headers: ClassVar[Mapping[str, str]] = SSE_HEADERS
    keep_alive: KeepAlive = "comment"

    def __init__(self) -> None:
        self._failed = False

    def silence(self) -> bytes:
        if self.keep_alive == "event":
            return self.empty_event()
        return sse.KEEP_ALIVE if self.keep_alive == "comment" else b""

    def end(self) -> bytes:
        return b""

    def fail(self, error: WireError) -> bytes:
        self._failed = True
        return self.error_event(error)

    def error_event(self, error: WireError) -> bytes:
        """The event of an error, which may concern one of several connections."""
        return sse.encode(self.error_body(error))

    @abstractmethod
    def empty_event(self) -> bytes:
        """An event that adds nothing: the first one of a resumable stream without an open(), and a
        sign of life where events are wanted."""

    def snapshot(self) -> bytes:
        """The answer as it is now, as one body; only of dialects with answers in the background."""
        raise NotImplementedError


class Choice:
    """What one choice of a whole answer has come to."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.reasoning: list[str] = []
        self.logprobs: list[TokenLogprob] = []
        self._calls: dict[int, list[ToolCallDelta]] = {}

    def add_call(self, event: ToolCallDelta) -> None:
        self._calls.setdefault(event.index, []).append(event)

    def calls(self) -> list[ToolCall]:
        """The tool calls, in order."""
        return [
            ToolCall(
                id=next((part.id for part in parts if part.id), ""),
                name=next((part.name for part in parts if part.name), ""),
                arguments="".join(part.arguments for part in parts),
            )
            for _, parts in sorted(self._calls.items())
        ]


class CallBuffer:
    """The tool calls of a choice, for a dialect that sends each when it is complete: when the next
    one begins, or the answer ends."""

    def __init__(self) -> None:
        self._choice = Choice()
        self._newest = 0
        self._n_sent = 0

    def add(self, event: ToolCallDelta) -> list[ToolCall]:
        """The calls that are complete now."""
        complete: list[ToolCall] = []
        if event.index > self._newest:  # only then: calls() joins every delta so far
            self._newest = event.index
            complete = self._choice.calls()[self._n_sent : event.index]
            self._n_sent += len(complete)
        self._choice.add_call(event)
        return complete

    def rest(self) -> list[ToolCall]:
        """The calls that were not sent before; the answer has ended."""
        return self._choice.calls()[self._n_sent :]


def arguments_object(call: ToolCall) -> Any:
    """The arguments of *call* as an object; an empty one if max_tokens cut them."""
    try:
        return msgspec.json.decode(without_halves(valid_text(call.arguments).encode()) or b"{}")
    except msgspec.DecodeError:
        return {}


class WholeEncoder(Encoder):
    """Collects an answer, and encodes it as one body of JSON at the end."""

    is_stream = False
    headers: ClassVar[Mapping[str, str]] = {"Content-Type": "application/json"}

    def __init__(self, choices: list[Choice]) -> None:
        self.choices = choices
        self.finished: dict[int, Finished] = {}
        self.route_events: list[ProviderFailed | Handoff | Seam] = []
        self.model: str | None = None
        """The last writer's, after a handoff."""
        self._failed: Failed | None = None

    def feed(self, event: StreamEvent) -> bytes:
        match event:
            case Delta():
                choice = self.choices[event.choice]
                choice.text.append(event.text)
                choice.logprobs += event.logprobs
            case ReasoningDelta():
                choice = self.choices[event.choice]
                choice.reasoning.append(event.text)
                choice.logprobs += event.logprobs
            case ToolCallDelta():
                choice = self.choices[event.choice]
                choice.add_call(event)
                choice.logprobs += event.logprobs
            case Finished():
                self.finished[event.choice] = event
            case Failed():
                self._failed = event
            case Replace(choice=index, keep_chars=keep):
                self.choices[index].text = ["".join(self.choices[index].text)[:keep]]
            case ProviderFailed() | Handoff() | Seam():
                self.route_events.append(event)
                if isinstance(event, Handoff):
                    self.model = event.target.model
        return b""

    def end(self) -> bytes:
        """The body. An answer that broke off is an error, never half an answer."""
        if self._failed is not None:
            raise failure(self._failed)
        is_cancelled = any(event.reason == "cancelled" for event in self.finished.values())
        if is_cancelled or len(self.finished) < len(self.choices):
            raise cancelled()
        return self.body()

    def fail(self, error: WireError) -> bytes:
        return self.error_body(error)

    @abstractmethod
    def body(self) -> bytes:
        """The JSON of the complete answer."""


def failure(event: Failed) -> WireError:
    """The error that an answer ended with."""
    return failed(event.code, event.message)


def check_complete(event: Finished) -> None:
    """Raise WireError for an answer that ended before it was complete, in dialects that cannot say
    so in another way."""
    if event.reason == "cancelled":
        raise cancelled()
    if event.reason == "interrupted":
        raise WireError(500, "the answer broke off, and nobody could continue it")


def cancelled() -> WireError:
    """The error of an answer that somebody cancelled."""
    return WireError(499, "the answer was cancelled")


class AnswerRequest(Struct, frozen=True, kw_only=True):
    """An HTTP request for an answer."""

    content: bytes
    engine: TextEngine
    """Knows the model's context and tokens."""
    defaults: AnswerDefaults
    """For what the body leaves open."""
    options: RouteOptions
    """The answer's id and owner, and what headers ask for; the body may say otherwise."""
    names_model: bool = False
    """Its `model` is the name of a local model, so that it says nothing of who should write."""
    path: Mapping[str, str] = {}
    """What the request's path has in the places of the endpoint's <variables>."""
    query: Mapping[str, str] = {}
    resume: bool = False
    """A header asks for a stream that can be taken up again; the body may say otherwise."""
    responses: ResponseStore
    """What OpenAI's Responses keep."""


class AnswerPlan(Struct, frozen=True, kw_only=True):
    """What a request asks for: what to generate, and how to encode it."""

    requests: tuple[EngineRequest, ...]
    """One for each prompt; choices are numbered on from prompt to prompt."""
    encoder: Encoder
    options: RouteOptions
    resumable: bool = False
    """Only for streams of server-sent events."""
    background: bool = False
    """It goes on whether or not a client follows it. Its stream has the answer's id."""
    streams: bool = True
    """The client follows the stream; False: it gets the encoder's snapshot() at once."""
    format_field: str | None = None
    """The body's field that asks for a response format."""
    keep_alive_s: float | None = None
    """Seconds for which the model is to stay loaded after this answer, or infinity."""


class ModelOrder(Struct, frozen=True, kw_only=True):
    """What a request wants of the model itself: that it is loaded or unloaded. *content* is the
    response's JSON."""

    loads: bool
    content: bytes
    keep_alive_s: float | None = None


class Endpoint(Struct, frozen=True, kw_only=True):
    """One row of the table of endpoints."""

    paths: tuple[str, ...]
    """As Flask writes them: <name> stands for a part of the path."""
    plan: Callable[[AnswerRequest], AnswerPlan | ModelOrder | bytes]
    """The plan, or the JSON of an answer that needs no engine. Raises WireError, and what the
    engine raises for a prompt that it cannot read."""
    error_body: ErrorBody
    """The JSON of an error, also of one before the body was read."""
    prefixes: tuple[str, ...] = ()
    """All paths that begin so have this shape of errors, too. They may have <variables>."""
