"""A server with fake providers behind it, and one streamed answer as a client sees it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
from msgspec import Struct, field

from tests.edge_server.conftest import Server
from tests.edge_server.story import STORY
from tests.fakes.fake import Fake

KEY = "sk-canary-of-the-route"

_HEAD = """
fallback = "{fallback}"
data_dir = "{folder}"
{top}
"""
_PROVIDER = """
[[provider]]
name = "{name}"
dialect = "openai"
model = "cloud-model"
base_url = "{url}/v1"
key_variable = "FAKE_KEY"
is_local_network = false
{fields}
"""
HOMELY = """
[[local_model]]
name = "homely"
model = "storyteller"

[[local_model]]
name = "open"
model = "storyteller-onnx"
fallback = "auto"
[local_model.policy]
decode_floor = 0.25
"""
"""Two models, one of which stays on the device."""


def routed_server(
    folder: Path,
    *fakes: Fake,
    fallback: str = "auto",
    top: str = "warms_connections = false",
    fields: str = "",
    tables: str = "",
    environment: dict[str, str] | None = None,
) -> Server:
    """A server on the bundled model whose providers are *fakes*, of OpenAI's dialect."""
    folder.mkdir(parents=True, exist_ok=True)
    text = _HEAD.format(fallback=fallback, folder=folder, top=top)
    for i, fake in enumerate(fakes, 1):
        text += _PROVIDER.format(name=f"fake-{i}", url=fake.url, fields=fields)
    (folder / "config.toml").write_text(text + tables)
    added = {"FAKE_KEY": KEY, **(environment or {})}
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        return Server(folder, "--config", str(folder / "config.toml"))
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class Answer(Struct, kw_only=True):
    """What a client has received of one stream."""

    id: str = ""
    text: str = ""
    """As a client shows it that understands "replace"."""
    plain: str = ""
    """As one shows it that does not."""
    events: list[dict[str, Any]] = field(default_factory=list)
    """The contents of the named events."""
    names: list[str] = field(default_factory=list)
    at: list[int] = field(default_factory=list)
    """Characters that had come before each event."""
    calls: dict[int, dict[str, str]] = field(default_factory=dict)
    finish: list[str] = field(default_factory=list)
    usage: Any = None
    error: Any = None
    is_done: bool = False
    n_chunks: int = 0

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The events of one type."""
        return [event for event in self.events if event["type"] == kind]

    @property
    def reasons(self) -> list[str]:
        return [event["reason"] for event in self.of("handoff")]

    def take(self, name: str, data: Any) -> None:
        """Take the next event of the stream; *data* None is [DONE]."""
        if data is None:
            self.is_done = True
            return
        self.n_chunks += 1
        self.id = data.get("id", self.id)
        self.error = data.get("error", self.error)
        self.usage = data.get("usage") or self.usage
        if "spillover" in data:
            self._happened(name, data["spillover"])
        for choice in data.get("choices", ()):
            delta = choice.get("delta", {})
            self.text += delta.get("content") or ""
            self.plain += delta.get("content") or ""
            for call in delta.get("tool_calls") or ():
                self._called(call)
            if choice.get("finish_reason"):
                self.finish.append(choice["finish_reason"])

    def _happened(self, name: str, event: dict[str, Any]) -> None:
        self.names.append(name)
        self.at.append(len(self.text))
        self.events.append(event)
        if event["type"] == "replace":
            self.text = self.text[: event["keep_chars"]]

    def _called(self, delta: dict[str, Any]) -> None:
        call = self.calls.setdefault(delta["index"], {"id": "", "name": "", "arguments": ""})
        call["id"] += delta.get("id") or ""
        call["name"] += delta["function"].get("name") or ""
        call["arguments"] += delta["function"].get("arguments") or ""


def lines(response: httpx.Response) -> Iterator[tuple[str, Any]]:
    """(event name, data) of a stream; [DONE] as None."""
    name = ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data: "):
            yield name, None if line == "data: [DONE]" else json.loads(line[6:])
            name = ""


def follow(
    server: Server, on_chunk: Callable[[Answer], object] | None = None, **body: Any
) -> Answer:
    """One streamed answer to its end; *on_chunk* sees it after each chunk."""
    body = {
        "messages": STORY,
        "stream": True,
        "temperature": 0,
        "max_tokens": 400,
        "stream_options": {"include_usage": True},
        **body,
        "spillover": {"events": True, **body.get("spillover", {})},
    }
    answer = Answer()
    url = f"{server.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body, timeout=60) as response:
        if response.status_code != 200:
            answer.error = json.loads(response.read())["error"]
            return answer
        for name, data in lines(response):
            answer.take(name, data)
            if on_chunk is not None:
                on_chunk(answer)
    return answer


def once(
    when: Callable[[Answer], bool], do: Callable[[Answer], object]
) -> Callable[[Answer], None]:
    """Do something at the first chunk of which *when* is true."""
    done = False

    def see(answer: Answer) -> None:
        nonlocal done
        if not done and when(answer):
            done = True
            do(answer)

    return see


def hand_over(server: Server, at: int = 60, to: str = "cloud") -> Callable[[Answer], None]:
    """Ask for a handoff once *at* characters are there."""

    def ask(answer: Answer) -> None:
        # Reading certificates takes so long that the answer may have ended.
        body = {"id": answer.id, "to": to}
        reply = httpx.post(f"{server.url}/v1/handoffs", json=body, verify=False)
        assert reply.status_code == 202, reply.text

    return once(lambda answer: len(answer.text) >= at, ask)
