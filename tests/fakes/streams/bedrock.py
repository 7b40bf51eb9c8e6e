"""Bedrock's ConverseStream, in AWS's binary frames."""

from __future__ import annotations

import json
import struct
import zlib
from typing import Any

from tests.fakes.asked import Asked
from tests.fakes.refusals import error_body, error_name
from tests.fakes.reply import Reply
from tests.fakes.script import Kind, Tokens, ToolCall
from tests.fakes.streams.stream import halves

_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "content_filtered",
}
_STRING = 7


class BedrockStream:
    content_type = "application/vnd.amazon.eventstream"

    def __init__(self, asked: Asked) -> None:
        self._index = 0
        self._block = ""

    def opening(self) -> list[bytes]:
        return [frame("messageStart", {"p": "abcd", "role": "assistant"})]

    def noise(self) -> list[bytes]:
        return [frame("somethingNew", {"x": 1})]

    def reasoning(self, text: str) -> list[bytes]:
        return [*self._close("reasoning"), self._delta({"reasoningContent": {"text": text}})]

    def text(self, text: str) -> list[bytes]:
        return [*self._close("text"), self._delta({"text": text})]

    def tool_call(self, index: int, call: ToolCall) -> list[bytes]:
        frames = self._close(call.id)
        start = {"toolUse": {"toolUseId": call.id, "name": call.name}}
        shown = {"start": start, "contentBlockIndex": self._index}
        deltas = [self._delta({"toolUse": {"input": part}}) for part in halves(call.arguments)]
        return [*frames, frame("contentBlockStart", shown), *deltas]

    def closing(self, reply: Reply, tokens: Tokens | None) -> list[bytes]:
        reason = "stop_sequence" if reply.stop else _STOP_REASONS[reply.finish]
        frames = [*self._close(""), frame("messageStop", {"stopReason": reason})]
        if tokens is not None:
            usage = {
                "inputTokens": tokens.prompt - tokens.cached,
                "outputTokens": tokens.completion,
                "totalTokens": tokens.prompt + tokens.completion,
                "cacheReadInputTokens": tokens.cached,
            }
            frames.append(frame("metadata", {"usage": usage, "metrics": {"latencyMs": 12}}))
        return frames

    def error(self, kind: Kind) -> bytes:
        name = error_name(kind)
        return frame(name[0].lower() + name[1:], error_body("bedrock", kind), "exception")

    def malformed(self) -> bytes:
        """A frame whose checksum is wrong."""
        return frame("contentBlockDelta", {"delta": {"text": "?"}})[:-1] + b"\x00"

    def _close(self, block: str) -> list[bytes]:
        """The frame that closes the open block, unless it is *block*."""
        if self._block in ("", block):
            self._block = block
            return []
        frames = [frame("contentBlockStop", {"contentBlockIndex": self._index})]
        self._index += 1
        self._block = block
        return frames

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return frame("contentBlockDelta", {"delta": delta, "contentBlockIndex": self._index})


def frame(name: str, payload: dict[str, Any], kind: str = "event") -> bytes:
    """An eventstream message: prelude, headers and JSON, each with its checksum."""
    headers = {
        f":{kind}-type": name,
        ":content-type": "application/json",
        ":message-type": kind,
    }
    head = b"".join(
        struct.pack(">B", len(key)) + key.encode() + struct.pack(">BH", _STRING, len(value)) + value
        for key, value in ((k, v.encode()) for k, v in headers.items())
    )
    body = json.dumps(payload).encode()
    prelude = struct.pack(">II", 16 + len(head) + len(body), len(head))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + head + body
    return message + struct.pack(">I", zlib.crc32(message))
