"""What OpenAI's dialects share: their answers' head, usage, chunks, whole bodies and errors."""

from __future__ import annotations

import functools
import json
import time
from abc import abstractmethod
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec

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
from spillover.cloud_fallback.route.settings import RouteOptions
from spillover.edge_server.wire import handoff, sse
from spillover.edge_server.wire.dialect import (
    Choice,
    StreamEncoder,
    WholeEncoder,
    cancelled,
    failure,
)
from spillover.edge_server.wire.errors import WireError
from spillover.edge_server.wire.llama_cpp.objects import generation_settings, timings, waiting
from spillover.edge_server.wire.request_body import CommonBody
from spillover.runtime.engine import TextEngine
from spillover.runtime.events import (
    Delta,
    Finished,
    Loading,
    Prefilling,
    Queued,
    ReasoningDelta,
    ToolCallDelta,
)
from spillover.runtime.request import GenerationRequest
from spillover.runtime.text.surrogates import valid_text

_json = msgspec.json.Encoder().encode
_SAMPLE = _json("\0")


def error_body(error: WireError) -> bytes:
    """{"error": {…}}, for whole bodies and events alike."""
    inner = {
        "message": str(error),
        "type": error.kind,
        "param": error.param,
        "code": error.code,
        **error.extra,
    }
    return json.dumps({"error": inner}).encode()


@functools.cache
def fingerprint() -> str:
    """The name of this build, as llama.cpp's server gives its own."""
    try:
        return f"b-spillover-{version('spillover')}"
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "b-spillover"


def head_fields(kind: str, answer_id: str, model: str) -> dict[str, Any]:
    """What is the same in every chunk of an answer."""
    return {
        "id": answer_id,
        "object": kind,
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": fingerprint(),
    }


def usage(finished: dict[int, Finished], n_each: int) -> dict[str, Any]:
    """OpenAI's usage object of all choices, of which *n_each* share a prompt; a prompt counts
    once."""
    usages = [event.usage for event in finished.values()]
    # The first choice of a prompt read it; the others found it in the KV cache.
    read = [event.usage for choice, event in finished.items() if choice % n_each == 0]
    n_prompt = sum(usage.prompt_tokens for usage in read)
    n_completion = sum(usage.completion_tokens for usage in usages)
    legs = [handoff.leg(leg) for usage in usages for leg in usage.legs]
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_completion,
        "total_tokens": n_prompt + n_completion,
        "prompt_tokens_details": {"cached_tokens": sum(u.cached_tokens for u in read)},
        "completion_tokens_details": {
            "reasoning_tokens": sum(usage.reasoning_tokens for usage in usages)
        },
        **({"by_leg": legs} if legs else {}),
    }


class ChunkOptions(msgspec.Struct, frozen=True):
    """What a client asked to see besides the text."""

    n: int
    """Choices in all, of which *n_each* share a prompt."""
    n_each: int
    usage: bool
    progress: bool
    events: bool = False
    """Handoffs and what belongs to them, as named events."""
    last_fields: tuple[dict[str, Any], ...] = ()
    """Of the chunk that ends a choice, for each prompt."""


def verbose(
    requests: tuple[GenerationRequest, ...],
    prompts: tuple[str, ...],
    engine: TextEngine,
    *,
    stream: bool,
) -> tuple[dict[str, Any], ...]:
    """What the model is really given for each prompt, under llama.cpp's name for it."""
    return tuple(
        {
            "__verbose": {
                "prompt": prompt,
                "generation_settings": generation_settings(
                    request, engine.name, engine.card.n_ctx, stream=stream
                ),
            }
        }
        for request, prompt in zip(requests, prompts, strict=True)
    )


def chunk_options(body: CommonBody, wanted: RouteOptions, n: int, n_each: int) -> ChunkOptions:
    options = body.stream_options
    return ChunkOptions(
        n=n,
        n_each=n_each,
        usage=bool(options and options.include_usage),
        progress=bool(body.return_progress),
        events=wanted.may_replace,
    )


class OpenAIStream(StreamEncoder):
    """Encodes chunks. Subclasses know the shape of a choice."""

    error_body = staticmethod(error_body)

    def __init__(self, head: dict[str, Any], options: ChunkOptions) -> None:
        super().__init__()
        self._head = head
        self._options = options
        self._finished: dict[int, Finished] = {}
        self._frames: dict[tuple[type[Delta | ReasoningDelta], int], tuple[bytes, bytes]] = {}

    def empty_event(self) -> bytes:
        return self._bare_chunk()

    def feed(self, event: StreamEvent) -> bytes:
        if self._failed:
            return b""
        if isinstance(event, Delta | ReasoningDelta):
            if event.logprobs or event.measures:
                return self._chunk(self._delta(event), event.choice, **_so_far(event))
            return self._plain(event)
        match event:
            case ToolCallDelta():
                return self._chunk(self._call(event), event.choice, **_so_far(event))
            case Finished():
                return self._finish(event)
            case Failed():
                return self.fail(failure(event))
            case Handoff() | Seam() | Replace():
                return self._routed(event)
            case ProviderFailed() | ConsentAsked() | ConsentAnswered():
                return self._routed(event)
            case Loading() | Prefilling() | Queued() if self._options.progress:
                return self._bare_chunk(**waiting(event))
        return b""

    def end(self) -> bytes:
        """Usage when asked for, and [DONE]."""
        if self._failed:
            return b""
        tail = sse.DONE
        if self._options.usage:
            totals = usage(self._finished, self._options.n_each)
            chunk = {**self._head, "choices": [], "usage": totals}
            if 0 in self._finished:
                chunk["timings"] = timings(self._finished[0])
            tail = sse.encode(_json(chunk)) + tail
        return tail

    def _plain(self, event: Delta | ReasoningDelta) -> bytes:
        """Only the text differs from one such chunk to the next: the rest is encoded once."""
        key = type(event), event.choice
        frame = self._frames.get(key)
        if frame is None:
            sample = key[0](choice=event.choice, text="\0")
            before, _, after = self._chunk(self._delta(sample), event.choice).rpartition(_SAMPLE)
            frame = self._frames[key] = before, after
        return b"%b%b%b" % (frame[0], sse.one_line(_json(valid_text(event.text))), frame[1])

    def _routed(self, event: handoff.RouteEvent) -> bytes:
        """From a handoff on, the chunks name the new writer's model. The event itself is a chunk
        without choices, too, so that it disturbs no client that does not know it."""
        if isinstance(event, Handoff):
            self._head["model"] = event.target.model
            self._frames.clear()
        if not self._options.events:
            return b""
        name, content = handoff.named(event)
        return sse.encode_named(name, _json({**self._head, "choices": [], "spillover": content}))

    def _finish(self, event: Finished) -> bytes:
        self._finished[event.choice] = event
        if event.reason == "cancelled":
            return self.fail(cancelled())
        choice = {**self._empty_choice(), "finish_reason": self._finish_reason(event)}
        shown = self._options.last_fields
        extra = shown[event.choice // self._options.n_each] if shown else {}
        return self._chunk(choice, event.choice, timings=timings(event), **extra)

    def _finish_reason(self, event: Finished) -> str:
        return event.reason

    def _bare_chunk(self, **extra: Any) -> bytes:
        return self._chunk({**self._empty_choice(), "finish_reason": None}, 0, **extra)

    def _chunk(self, choice: dict[str, Any], index: int, **extra: Any) -> bytes:
        choices = [{"index": index, **choice}]
        return sse.encode(_json({**self._head, "choices": choices, **extra}))

    @abstractmethod
    def _delta(self, event: Delta | ReasoningDelta) -> dict[str, Any]: ...

    def _call(self, event: ToolCallDelta) -> dict[str, Any]:
        """A part of a tool call; only conversations have them."""
        raise AssertionError("a text completion has no tools")

    @abstractmethod
    def _empty_choice(self) -> dict[str, Any]: ...


def _so_far(event: Delta | ReasoningDelta | ToolCallDelta) -> dict[str, Any]:
    return {} if event.measures is None else {"timings": timings(event.measures)}


class OpenAIWhole(WholeEncoder):
    """Encodes one object with all choices. Subclasses know the shape of a choice."""

    error_body = staticmethod(error_body)

    def __init__(self, head: dict[str, Any], choices: list[Choice], n_each: int) -> None:
        super().__init__(choices)
        self._head = head
        self._n_each = n_each

    def body(self) -> bytes:
        happened = [handoff.named(event)[1] for event in self.route_events]
        routed: dict[str, Any] = {"spillover": happened} if happened else {}
        if self.model:
            routed["model"] = self.model
        choices = [
            {
                "index": index,
                **self._shape(number),
                "finish_reason": self._finish_reason(self.finished[number]),
            }
            for index, number in enumerate(self._shown())
        ]
        return _json(
            {
                **self._head,
                **routed,
                "choices": choices,
                "usage": usage(self.finished, self._n_each),
                "timings": timings(self.finished[0]),
            }
        )

    def _finish_reason(self, event: Finished) -> str:
        return event.reason

    def _shown(self) -> list[int]:
        """The numbers of the choices that the client sees, in order."""
        return list(range(len(self.choices)))

    @abstractmethod
    def _shape(self, number: int) -> dict[str, Any]:
        """The choice of this number, without its index and its finish reason."""
