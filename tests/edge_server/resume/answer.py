"""An answer whose events a test writes, and a client of its stream."""

from __future__ import annotations

import json

from spillover.edge_server.answers.event_log import EventSource
from spillover.edge_server.resume.viewer import Viewer
from spillover.edge_server.wire.openai.answer import ChunkOptions, head_fields
from spillover.edge_server.wire.openai.chat import ChatStream
from spillover.runtime.events import Delta, Finished, Timings, Usage
from tests.sse_reader import events_of


def finished(reason: str) -> Finished:
    return Finished(
        reason=reason,  # type: ignore[arg-type]  # a Literal
        usage=Usage(prompt_tokens=1, cached_tokens=0, completion_tokens=1),
        timings=Timings(queue_ms=0, prefill_ms=0, decode_ms=0),
    )


def encoder() -> ChatStream:
    options = ChunkOptions(n=1, n_each=1, usage=False, progress=False)
    return ChatStream(head_fields("chat.completion.chunk", "chatcmpl-0", "model"), options)


class Answer(EventSource):
    """A source whose events the test appends. When cancelled it ends like an engine's."""

    def __init__(self) -> None:
        super().__init__("answer")
        self.is_over = False
        self.cancellation.subscribe(lambda: self.end("cancelled"))

    def say(self, text: str) -> None:
        self.log.append(Delta(text=text))

    def end(self, reason: str = "stop") -> None:
        if not self.is_over:
            self.is_over = True
            self.log.append(finished(reason))
            self.log.close()


class Client:
    """Applies each event of a stream once, by its number, in any dialect."""

    def __init__(self, after: int = 0) -> None:
        self.last = after
        self.texts: dict[int, str] = {}
        """The text of each choice."""
        self.end: str | None = None
        """How the stream says that it ended: [DONE], or the message of its error."""
        self.names: list[str] = []
        """Of the events that have one."""

    @property
    def text(self) -> str:
        return self.texts.get(0, "")

    def take(self, body: bytes) -> None:
        for event in events_of(body):
            _, _, number = event.id.rpartition(":")
            if int(number) <= self.last:
                continue
            assert int(number) == self.last + 1, "an event is missing"
            assert self.end is None, "something follows the end"
            self.last += 1
            self.names += [event.name] if event.name != "message" else []
            self._apply(event.data)

    def _apply(self, data: str) -> None:
        if data == "[DONE]":
            self.end = data
            return
        content = json.loads(data)
        if "error" in content:
            self.end = content["error"]["message"]
        for choice in content.get("choices", ()):
            delta = choice.get("delta", {}).get("content") or choice.get("text") or ""
            self.texts[choice["index"]] = self.texts.get(choice["index"], "") + delta
        if "content" in content:  # llama.cpp's
            self.texts[content["index"]] = self.texts.get(content["index"], "") + content["content"]
            self.end = "stop" if content["stop"] else None

    def read(self, viewer: Viewer) -> bool:
        """Take all events that are there; return whether the stream has ended."""
        while True:
            events, ended = viewer.log.read(viewer.after)
            self.take(b"".join(map(viewer.feed, events)))
            if ended or not events:
                return ended
