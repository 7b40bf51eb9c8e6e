"""Items of OpenAI's Responses: those that a client sends, and what they are as messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from spillover.edge_server.wire.content import ContentParts
from spillover.edge_server.wire.errors import bad_request
from spillover.edge_server.wire.openai.tools import arguments_text


class Part(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A part of a content."""

    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    file_id: str | None = None
    detail: str | None = None


Content: TypeAlias = str | tuple[Part, ...] | None


class Item(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An item of any type: a message where none is named."""

    type: str | None = "message"
    id: str | None = None
    role: str | None = None
    content: Content = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: Any = None
    input: Any = None
    output: Any = None
    summary: tuple[Part, ...] | None = None
    status: str | None = None
    tools: Any = None
    """Of additional_tools and the like; read by tools_in()."""

    @property
    def kind(self) -> str:
        return self.type or "message"

    @property
    def is_reference(self) -> bool:
        """Whether it only names an item of a response that is kept."""
        is_bare = self.kind == "message" and self.role is None and self.content is None
        return self.id is not None and (is_bare or self.type == "item_reference")


def messages_of(items: Iterable[Item], param: str = "input") -> list[dict[str, Any]]:
    """Messages of a GenerationRequest, or a 400 that names the item that cannot be read. Items of
    one answer become one message; those of tools that others run are left out."""
    conversation = _Conversation()
    for i, item in enumerate(items):
        conversation.add(item, f"{param}[{i}]")
    return conversation.messages


class _Conversation:
    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._turn: dict[str, Any] | None = None
        """The assistant's message to which more items belong."""

    def add(self, item: Item, param: str) -> None:
        match item.kind:
            case "message":
                self._add_message(item, param)
            case "reasoning":
                self._answer("reasoning")["reasoning"] = _reasoning(item)
            case "function_call" | "custom_tool_call":
                self._answer("tool_calls")["tool_calls"] += (_call(item, param),)
            case "function_call_output" | "custom_tool_call_output":
                fields = _output(item.output, f"{param}.output")
                self._say(role="tool", tool_call_id=item.call_id, **fields)

    def _add_message(self, item: Item, param: str) -> None:
        if item.role is None:
            raise bad_request(f"{param}.role is missing", f"{param}.role")
        fields = content_fields(item.content, f"{param}.content")
        if item.role == "assistant":
            self._answer("content").update(fields)
        else:
            self._say(role=item.role, **fields)

    def _say(self, **message: Any) -> None:
        self._turn = None
        self.messages.append(message)

    def _answer(self, field: str) -> dict[str, Any]:
        """The assistant's message that takes *field*. Its order is reasoning, content, calls."""
        turn = self._turn
        is_done = turn is None or turn["tool_calls"] or turn["content"]
        if turn is None or (is_done and field != "tool_calls"):
            turn = {"role": "assistant", "content": "", "reasoning": None, "tool_calls": ()}
            self._turn = turn
            self.messages.append(turn)
        return turn


def content_fields(content: Content, param: str) -> dict[str, Any]:
    """The content and images of a message, or a 400 for a part that is neither."""
    read = ContentParts()
    if not isinstance(content, tuple):
        return {"content": content or ""}
    for i, part in enumerate(content):
        text = part.refusal if part.type == "refusal" else part.text
        if part.type in ("input_text", "output_text", "text", "refusal"):
            read.add_text(text or "")
        elif part.type == "input_image" and part.file_id is None:
            read.add_url(part.image_url, f"{param}[{i}].image_url")
        else:
            what = "a file of OpenAI's servers" if part.file_id else repr(part.type)
            reason = f"this server reads only texts and images, not {what}"
            raise bad_request(reason, f"{param}[{i}]")
    return read.fields


def _reasoning(item: Item) -> str | None:
    """The reasoning itself, or what was told of it."""
    parts = item.content if isinstance(item.content, tuple) and item.content else item.summary
    return "\n".join(part.text or "" for part in parts or ()) or None


def _call(item: Item, param: str) -> dict[str, str]:
    if item.call_id is None or item.name is None:
        field = "call_id" if item.call_id is None else "name"
        raise bad_request(f"{param}.{field} is missing", f"{param}.{field}")
    if item.type == "custom_tool_call":
        arguments = msgspec.json.encode({"input": item.input or ""}).decode()
    else:
        arguments = arguments_text(item.arguments)
    return {"id": item.call_id, "name": item.name, "arguments": arguments}


def _output(output: Any, param: str) -> dict[str, Any]:
    if isinstance(output, list):
        try:
            return content_fields(msgspec.convert(output, tuple[Part, ...]), param)
        except msgspec.ValidationError as error:
            raise bad_request(f"{param} must be a text or a list of parts", param) from error
    if isinstance(output, str | None):
        return {"content": output or ""}
    return {"content": msgspec.json.encode(output).decode()}


def reasoning_item(item_id: str, text: str, status: str) -> dict[str, Any]:
    content = [{"type": "reasoning_text", "text": text}] if text else []
    return {
        "id": item_id,
        "type": "reasoning",
        "summary": [],
        "content": content,
        "encrypted_content": None,
        "status": status,
    }


def text_part(text: str, logprobs: list[Any]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def message_item(item_id: str, content: list[dict[str, Any]], status: str) -> dict[str, Any]:
    return {
        "id": item_id,
        "type": "message",
        "role": "assistant",
        "content": content,
        "status": status,
    }
