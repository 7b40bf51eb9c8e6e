"""Events to the chunks of a stream, for chat and text completions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import msgspec

from spillover.cloud_fallback.events import (
    ConsentAnswered,
    ConsentAsked,
    Failed,
    Handoff,
    Replace,
    Seam,
    StreamEvent,
)
from spillover.edge_server.web import sse
from spillover.edge_server.wire import handoff
from spillover.edge_server.wire.answer import (
    AnswerHead,
    Totals,
    chat_logprobs,
    completion_logprobs,
    progress,
    timings,
    valid_text,
)
from spillover.edge_server.wire.errors import WireError, body_of
from spillover.edge_server.wire.tools import call_delta
from spillover.runtime.events import (
    Delta,
    Finished,
    Prefilling,
    Queued,
    ReasoningDelta,
    ToolCallDelta,
)

_json = msgspec.json.Encoder().encode
_SAMPLE = _json("\0")


class StreamOptions(msgspec.Struct, frozen=True):
    """What a client asked to see besides the text."""

    n: int
    """Choices in all, of which *n_each* share a prompt."""
    n_each: int
    usage: bool
    progress: bool
    events: bool = False
    """What happens between two writers, as named events."""


class StreamEncoder(ABC):
    """One stream's events to SSE bytes. Subclasses know the shape of a choice."""

    kind: str

    def __init__(self, head: AnswerHead, options: StreamOptions) -> None:
        self._head = head.fields(self.kind)
        self._options = options
        self._totals = Totals(options.n_each)
        self._failed = False
        self._frames: dict[tuple[type[Delta | ReasoningDelta], int], tuple[bytes, bytes]] = {}

    def start(self) -> bytes:
        """What stands before the first event's bytes."""
        return b""

    def opening(self) -> bytes:
        """A chunk that adds nothing."""
        return self._chunk({**self._empty_choice(), "finish_reason": None}, 0)

    def encode(self, event: StreamEvent) -> bytes:
        """The bytes of one event; often none."""
        if self._failed:
            return b""
        if isinstance(event, Delta | ReasoningDelta):
            if event.logprobs:
                return self._chunk(self._delta(event), event.choice)
            return self._plain(event)
        self._totals.add(event)
        match event:
            case ToolCallDelta():
                return self._chunk(self._call(event), event.choice)
            case Finished():
                return self._finish(event)
            case Failed():
                return self.fail(WireError(500, event.code, event.message))
            case Handoff() | Seam() | Replace() | ConsentAsked() | ConsentAnswered():
                return self._routed(event)
            case Prefilling() if self._options.progress:
                return self._progress({"prompt_progress": progress(event)})
            case Queued() if self._options.progress:
                return self._progress({"queue_position": event.position})
        return b""

    def end(self) -> bytes:
        """After the last event: usage when asked for, and [DONE]; nothing after a failure."""
        if self._failed:
            return b""
        tail = sse.DONE
        if self._options.usage:
            usage = {**self._head, "choices": [], "usage": self._totals.usage()}
            if 0 in self._totals.finished:
                usage["timings"] = timings(self._totals.finished[0])
            tail = sse.encode(_json(usage)) + tail
        return tail

    def fail(self, error: WireError) -> bytes:
        """An error in the middle of a stream; nothing follows it."""
        self._failed = True
        return sse.encode(body_of(error))

    def _plain(self, event: Delta | ReasoningDelta) -> bytes:
        """Only the text differs from one such chunk to the next: the rest is made once."""
        key = type(event), event.choice
        frame = self._frames.get(key)
        if frame is None:
            sample = key[0](choice=event.choice, text="\0")
            before, _, after = self._chunk(self._delta(sample), event.choice).rpartition(_SAMPLE)
            frame = self._frames[key] = before, after
        return b"%b%b%b" % (frame[0], sse.one_line(_json(valid_text(event.text))), frame[1])

    def _routed(self, event: handoff.RouteEvent) -> bytes:
        """From a handoff on, the chunks name the new writer's model. The event itself is a chunk
        without choices too, so that a client that does not know it is not disturbed."""
        if isinstance(event, Handoff):
            self._head["model"] = event.target.model
            self._frames.clear()
        if not self._options.events:
            return b""
        name, content = handoff.named(event)
        return sse.encode_named(name, _json({**self._head, "choices": [], "spillover": content}))

    def _finish(self, event: Finished) -> bytes:
        if event.reason == "cancelled":
            return self.fail(WireError(499, "cancelled", "the answer was cancelled"))
        choice = {**self._empty_choice(), "finish_reason": event.reason}
        return self._chunk(choice, event.choice, timings=timings(event))

    def _progress(self, extra: dict[str, Any]) -> bytes:
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


class ChatStream(StreamEncoder):
    """chat.completion.chunk objects; the first of each choice carries the role."""

    kind = "chat.completion.chunk"

    def start(self) -> bytes:
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
            choice["logprobs"] = chat_logprobs(event.logprobs)
        return choice

    def _empty_choice(self) -> dict[str, Any]:
        return {"delta": {}}


class CompletionStream(StreamEncoder):
    """text_completion objects."""

    kind = "text_completion"

    def __init__(
        self, head: AnswerHead, options: StreamOptions, echoes: tuple[str, ...] = ()
    ) -> None:
        super().__init__(head, options)
        self._echoes = echoes
        self._offsets = [0] * options.n

    def start(self) -> bytes:
        """The prompts, for those who want them in front of their answers."""
        return b"".join(
            self._plain(Delta(choice=prompt * self._options.n_each + i, text=echo))
            for prompt, echo in enumerate(self._echoes)
            for i in range(self._options.n_each)
            if echo
        )

    def _delta(self, event: Delta | ReasoningDelta) -> dict[str, Any]:
        logprobs = None
        if event.logprobs:
            logprobs = completion_logprobs(event.logprobs, self._offsets[event.choice])
            self._offsets[event.choice] += sum(len(t) for t in logprobs["tokens"])
        return {"text": valid_text(event.text), "logprobs": logprobs, "finish_reason": None}

    def _empty_choice(self) -> dict[str, Any]:
        return {"text": ""}
