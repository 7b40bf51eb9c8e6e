"""Gemini's conversations: contents become messages."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from spillover.edge_server.wire.content import ContentParts
from spillover.edge_server.wire.errors import bad_request


class FunctionCall(Struct, frozen=True, kw_only=True):
    name: str
    args: Any = None
    id: str | None = None


class FunctionResponse(Struct, frozen=True, kw_only=True):
    name: str
    response: Any = None
    id: str | None = None


class Blob(Struct, frozen=True, kw_only=True, rename="camel"):
    """Something by its content, or by where it lies."""

    mime_type: str = ""
    data: str | None = None
    file_uri: str | None = None


class Part(Struct, frozen=True, kw_only=True, rename="camel"):
    """A part; one with none of these fields is of a kind that nobody here can read."""

    text: str | None = None
    thought: bool | None = None
    inline_data: Blob | None = None
    file_data: Blob | None = None
    function_call: FunctionCall | None = None
    function_response: FunctionResponse | None = None


class Content(Struct, frozen=True, kw_only=True):
    parts: tuple[Part, ...] = ()
    role: str | None = None


def messages_of(system: Content | None, contents: tuple[Content, ...]) -> list[dict[str, Any]]:
    """Messages of a GenerationRequest, or a 400 that names the part that cannot be read."""
    conversation = _Conversation()
    if system is not None:
        conversation.say("system", system, "systemInstruction")
    for i, content in enumerate(contents):
        conversation.add(content, f"contents[{i}]")
    return conversation.messages


def _read(part: Part, content: ContentParts, param: str) -> None:
    blob = part.inline_data or part.file_data
    if part.text is not None:
        content.add_text(part.text)
    elif blob is None or not blob.mime_type.startswith("image/"):
        raise bad_request("this server reads only texts and images", param)
    elif part.inline_data is not None:
        content.add_base64(blob.data, f"{param}.inlineData.data")
    else:
        content.add_url(blob.file_uri, f"{param}.fileData.fileUri")


class _Conversation:
    """Calls without an id get one, and answers without one belong to the next call of their
    name."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._open: list[tuple[str, str]] = []
        self._n_calls = 0

    def say(self, role: str, content: Content, param: str) -> None:
        read = ContentParts()
        for i, part in enumerate(content.parts):
            _read(part, read, f"{param}.parts[{i}]")
        self.messages.append({"role": role, **read.fields})

    def add(self, content: Content, param: str) -> None:
        if content.role == "model":
            self._answer(content, param)
            return
        if content.role not in (None, "user", "function", "tool"):
            raise bad_request(f"{param}.role must be user or model", f"{param}.role")
        answers = [part.function_response for part in content.parts if part.function_response]
        for answer in answers:
            self._answered(answer)
        others = tuple(part for part in content.parts if not part.function_response)
        if others or not answers:
            self.say("user", Content(parts=others), param)

    def _answer(self, content: Content, param: str) -> None:
        for i, part in enumerate(content.parts):
            if part.inline_data or part.file_data:
                reason = "a turn of the model may hold only texts and calls"
                raise bad_request(reason, f"{param}.parts[{i}]")
        self.messages.append(
            {
                "role": "assistant",
                "content": "".join(p.text or "" for p in content.parts if not p.thought),
                "reasoning": "".join(p.text or "" for p in content.parts if p.thought) or None,
                "tool_calls": tuple(
                    self._call(part.function_call) for part in content.parts if part.function_call
                ),
            }
        )

    def _call(self, call: FunctionCall) -> dict[str, str]:
        self._n_calls += 1
        call_id = call.id or f"call_{self._n_calls}"
        self._open.append((call.name, call_id))
        arguments = msgspec.json.encode(call.args or {}).decode()
        return {"id": call_id, "name": call.name, "arguments": arguments}

    def _answered(self, answer: FunctionResponse) -> None:
        call_id = answer.id or next((i for name, i in self._open if name == answer.name), None)
        self._open = [(name, i) for name, i in self._open if i != call_id]
        response = answer.response
        text = response if isinstance(response, str) else msgspec.json.encode(response).decode()
        self.messages.append({"role": "tool", "tool_call_id": call_id, "content": text})
