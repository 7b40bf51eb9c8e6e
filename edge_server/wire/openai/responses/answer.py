"""Answers in the shape of OpenAI's Responses."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from spillover.cloud_fallback.events import (
    ConsentAnswered,
    ConsentAsked,
    Failed,
    Handoff,
    ProviderFailed,
    Seam,
    StreamEvent,
)
from spillover.edge_server.wire import handoff, sse
from spillover.edge_server.wire.dialect import (
    Encoder,
    StreamEncoder,
    cancelled,
    check_complete,
    failure,
)
from spillover.edge_server.wire.errors import WireError
from spillover.edge_server.wire.llama_cpp.objects import waiting
from spillover.edge_server.wire.openai.answer import error_body
from spillover.edge_server.wire.openai.chat import logprob_objects
from spillover.edge_server.wire.openai.responses.items import (
    Item,
    message_item,
    reasoning_item,
    text_part,
)
from spillover.edge_server.wire.openai.responses.store import ResponseStore, StoredResponse
from spillover.runtime.events import (
    Delta,
    Finished,
    Loading,
    Prefilling,
    Queued,
    ReasoningDelta,
    ToolCallDelta,
)
from spillover.runtime.text.surrogates import valid_text

_json = msgspec.json.Encoder().encode

Event: TypeAlias = tuple[str, dict[str, Any]]
"""The name of an event, without "response.", and its fields."""


class Told(Struct, frozen=True, kw_only=True):
    """What an answer says besides its output."""

    id: str
    fields: dict[str, Any]
    """Those that repeat the request."""
    namespaces: dict[str, str]
    """Of functions that stood in one."""
    events: bool
    """Send handoffs and what belongs to them."""
    logprobs: bool
    store: ResponseStore | None
    """Keeps the response; None: nobody does."""
    stored: StoredResponse
    progress: bool = False
    """Send how much of the prompt has been read."""


class Output:
    """The items of an answer, and the events that tell of them. One item is open at a time."""

    def __init__(self, told: Told) -> None:
        self._told = told
        self.items: list[dict[str, Any]] = []
        self._open: tuple[str, int] | None = None
        """The open item's type, and the number of its call."""
        self._parts: list[str] = []
        self._logprobs: list[Any] = []

    @property
    def place(self) -> dict[str, Any]:
        """Where the newest item is."""
        return {"item_id": self.items[-1]["id"], "output_index": len(self.items) - 1}

    def feed(self, event: Delta | ReasoningDelta | ToolCallDelta) -> Iterator[Event]:
        match event:
            case Delta(text=text) if text:
                yield from self._begin("message")
                self._parts.append(text)
                records = logprob_objects(event.logprobs) if self._told.logprobs else []
                self._logprobs += records
                place = self.place | {"content_index": 0}
                yield "output_text.delta", place | {"delta": text, "logprobs": records}
            case ReasoningDelta(text=text) if text:
                yield from self._begin("reasoning")
                self._parts.append(text)
                yield "reasoning_text.delta", self.place | {"content_index": 0, "delta": text}
            case ToolCallDelta():
                yield from self._begin("function_call", event)
                if event.arguments:
                    self._parts.append(event.arguments)
                    delta = self.place | {"delta": event.arguments}
                    yield "function_call_arguments.delta", delta

    def _begin(self, kind: str, call: ToolCallDelta | None = None) -> Iterator[Event]:
        """Open an item, unless this one is open."""
        wanted = kind, call.index if call else 0
        if self._open == wanted:
            return
        yield from self.close()
        self._open = wanted
        prefix = {"message": "msg", "reasoning": "rs", "function_call": "fc"}[kind]
        item_id = f"{prefix}_{self._told.id}_{len(self.items)}"
        if call is not None:
            item = self._call_item(item_id, call)
        elif kind == "message":
            item = message_item(item_id, [], "in_progress")
        else:
            item = reasoning_item(item_id, "", "in_progress")
        self.items.append(item)
        yield "output_item.added", {"output_index": len(self.items) - 1, "item": item}
        if kind != "function_call":
            yield "content_part.added", self.place | {"content_index": 0, "part": self._part(kind)}

    def _call_item(self, item_id: str, call: ToolCallDelta) -> dict[str, Any]:
        name = call.name or ""
        space = self._told.namespaces.get(name)
        return {
            "id": item_id,
            "type": "function_call",
            "call_id": call.id,
            "name": name,
            "arguments": "",
            "status": "in_progress",
            **({} if space is None else {"namespace": space}),
        }

    def _part(self, kind: str) -> dict[str, Any]:
        text = "".join(self._parts)
        if kind == "message":
            return text_part(text, list(self._logprobs))
        return {"type": "reasoning_text", "text": text}

    def close(self, status: str = "completed") -> Iterator[Event]:
        """End the open item."""
        if self._open is None:
            return
        (kind, _), self._open = self._open, None
        item, text, place = self.items[-1], "".join(self._parts), self.place
        if kind == "function_call":
            item = {**item, "arguments": valid_text(text), "status": status}
            yield "function_call_arguments.done", place | {"arguments": text, "name": item["name"]}
        else:
            part, at = self._part(kind), place | {"content_index": 0}
            if kind == "message":
                item = message_item(item["id"], [part], status)
                yield "output_text.done", at | {"text": text, "logprobs": part["logprobs"]}
            else:
                item = reasoning_item(item["id"], text, status)
                yield "reasoning_text.done", at | {"text": text}
            yield "content_part.done", at | {"part": part}
        self.items[-1] = item
        self._parts, self._logprobs = [], []
        yield "output_item.done", {"output_index": len(self.items) - 1, "item": item}


class Progress:
    """A response from its beginning to its end."""

    def __init__(self, told: Told) -> None:
        self._told = told
        self.output = Output(told)
        self._happened: list[dict[str, Any]] = []
        self._model: str | None = None
        self.final: dict[str, Any] | None = None
        """The response that ended."""

    def shown(self, status: str, **fields: Any) -> dict[str, Any]:
        """The response object."""
        model = {"model": self._model, "spillover": self._happened} if self._model else {}
        return {
            "id": self._told.stored.id,
            **self._told.fields,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "output": self.output.items,
            "usage": None,
            **model,
            **fields,
        }

    def handed_over(self, event: Handoff | Seam) -> None:
        self._happened.append(handoff.named(event)[1])
        if isinstance(event, Handoff):
            self._model = event.target.model

    def finish(self, event: Finished) -> Iterator[Event]:
        """The ending of an answer. Raises WireError when nobody could finish it."""
        check_complete(event)
        why = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(event.reason)
        status = "completed" if why is None else "incomplete"
        yield from self.output.close(status)
        fields: dict[str, Any] = {"usage": _usage(event), "completed_at": int(time.time())}
        if why is not None:
            fields["incomplete_details"] = {"reason": why}
        yield self._end(self.shown(status, **fields))

    def fail(self, error: WireError) -> Iterator[Event]:
        """The ending of an answer that did not come about."""
        if error.status == 499:
            yield from self.output.close("incomplete")
            yield self._end(self.shown("cancelled"), "incomplete")
            return
        yield from self.output.close("incomplete")
        words = {"code": error.code or "server_error", "message": str(error)}
        yield self._end(self.shown("failed", error=words))

    def _end(self, response: dict[str, Any], name: str | None = None) -> Event:
        self.keep(response, begun=self._told.stored.runs)
        self.final = response
        return name or response["status"], {"response": response}

    def keep(self, response: dict[str, Any], *, begun: bool = False) -> None:
        """Store the response as it is now; *begun*: it was stored before."""
        if self._told.store is None:
            return
        response = _valid(response)
        answered = msgspec.convert(response["output"], tuple[Item, ...])
        stored = replace(self._told.stored, body=_json(response), answered=answered)
        if begun:
            self._told.store.update(stored)
        else:
            self._told.store.put(stored)


def _valid(value: Any) -> Any:
    """*value* without half surrogate pairs, which JSON cannot carry."""
    if isinstance(value, str):
        return valid_text(value)
    if isinstance(value, dict):
        return {key: _valid(inner) for key, inner in value.items()}
    return [_valid(inner) for inner in value] if isinstance(value, list) else value


def _usage(event: Finished) -> dict[str, Any]:
    usage = event.usage
    legs = [handoff.leg(leg) for leg in usage.legs]
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        **({"by_leg": legs} if legs else {}),
    }


class ResponseStream(StreamEncoder):
    """Numbered events."""

    error_body = staticmethod(error_body)

    def __init__(self, told: Told) -> None:
        super().__init__()
        self._told = told
        self._progress = Progress(told)
        self._n_events = 0

    def open(self) -> bytes:
        response = self._progress.shown("in_progress")
        if self._told.stored.runs:
            self._progress.keep(response)
        begun = [("created", {"response": response}), ("in_progress", {"response": response})]
        return self._encoded(iter(begun))

    def empty_event(self) -> bytes:
        """As OpenAI's servers call it. Without a number: it is of one connection, not of the
        response."""
        return sse.encode_named("keepalive", _json({"type": "keepalive"}))

    def snapshot(self) -> bytes:
        return _json(_valid(self._progress.final or self._progress.shown("in_progress")))

    def feed(self, event: StreamEvent) -> bytes:
        if self._failed:
            return b""
        match event:
            case Delta() | ReasoningDelta() | ToolCallDelta():
                return self._encoded(self._progress.output.feed(event))
            case Finished():
                try:
                    return self._encoded(self._progress.finish(event))
                except WireError as error:
                    return self.fail(error)
            case Failed():
                return self.fail(failure(event))
            case Loading() | Prefilling() | Queued() if self._told.progress:
                name = "spillover.progress"
                return self._numbered(name, {"type": name, **waiting(event)})
            case Handoff() | Seam() | ProviderFailed():
                return self._routed(event)
            case ConsentAsked() | ConsentAnswered():
                return self._routed(event)
        return b""

    def _routed(self, event: handoff.RouteEvent) -> bytes:
        if isinstance(event, Handoff | Seam):
            self._progress.handed_over(event)
        if not self._told.events:
            return b""
        name, content = handoff.named(event)
        fields = {"type": f"spillover.{name}", "spillover": content}
        return self._numbered(f"spillover.{name}", fields)

    def fail(self, error: WireError) -> bytes:
        if self._failed or self._progress.final is not None:
            return b""
        self._failed = True
        return self._encoded(self._progress.fail(error))

    def error_event(self, error: WireError) -> bytes:
        """Without a number of its own: the event is of one connection, not of the response."""
        fields = {"code": error.code, "message": str(error), "param": error.param}
        event = {"type": "error", "sequence_number": self._n_events, **fields}
        return sse.encode_named("error", _json(event))

    def _encoded(self, events: Iterator[Event]) -> bytes:
        return b"".join(self._event(name, fields) for name, fields in events)

    def _event(self, name: str, fields: dict[str, Any]) -> bytes:
        return self._numbered(f"response.{name}", {"type": f"response.{name}", **_valid(fields)})

    def _numbered(self, name: str, fields: dict[str, Any]) -> bytes:
        event = {**fields, "sequence_number": self._n_events}
        self._n_events += 1
        return sse.encode_named(name, _json(event))


class ResponseWhole(Encoder):
    """One response object."""

    is_stream = False
    headers = {"Content-Type": "application/json"}  # noqa: RUF012
    error_body = staticmethod(error_body)

    def __init__(self, told: Told) -> None:
        self._progress = Progress(told)
        self._ending: Finished | Failed | None = None

    def feed(self, event: StreamEvent) -> bytes:
        progress = self._progress
        match event:
            case Delta() | ReasoningDelta() | ToolCallDelta():
                list(progress.output.feed(event))
            case Finished() | Failed():
                self._ending = event
            case Handoff() | Seam():
                progress.handed_over(event)
        return b""

    def end(self) -> bytes:
        if isinstance(self._ending, Failed):
            raise failure(self._ending)
        if self._ending is None:
            raise cancelled()
        list(self._progress.finish(self._ending))
        return _json(_valid(self._progress.final))

    def fail(self, error: WireError) -> bytes:
        return error_body(error)
