"""The body of an answer: its frames in order, each with what it is."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Literal, TypeAlias

from msgspec import Struct

from tests.fakes.asked import Asked, DialectName
from tests.fakes.refusals import error_body
from tests.fakes.reply import Reply, reply
from tests.fakes.script import Act, Tokens
from tests.fakes.streams.anthropic import AnthropicStream
from tests.fakes.streams.bedrock import BedrockStream
from tests.fakes.streams.cohere import CohereStream
from tests.fakes.streams.gemini import GeminiStream
from tests.fakes.streams.openai import AzureStream, OpenAIStream
from tests.fakes.streams.stream import FakeStream
from tests.fakes.streams.tgi import TgiStream

FrameKind: TypeAlias = Literal["frame", "text", "cut"]

FAKE_STREAMS: dict[DialectName, type[FakeStream]] = {
    "openai": OpenAIStream,
    "azure": AzureStream,
    "anthropic": AnthropicStream,
    "gemini": GeminiStream,
    "cohere": CohereStream,
    "tgi": TgiStream,
    "bedrock": BedrockStream,
}


class Piece(Struct, frozen=True):
    """Bytes of the body. "text": a chunk of the answer; "cut": the stream breaks off here."""

    kind: FrameKind
    data: bytes = b""


def pieces(act: Act, asked: Asked) -> Generator[Piece]:
    """The body that *act* makes of *asked*, up to where it breaks off."""
    if act.raw is not None:
        yield from (Piece("frame", text.encode("latin-1")) for text in act.raw)
        return
    stream = FAKE_STREAMS[asked.dialect](asked)
    answer = reply(act, asked)
    yield from _frames(stream.opening())
    if act.noise:
        yield from _frames(stream.noise())
    if act.reasoning:
        yield from _frames(stream.reasoning(act.reasoning))
    for n, chunk in enumerate(answer.chunks):
        yield from _faults(act, asked, stream, n)
        yield Piece("text", b"".join(stream.text(chunk)))
    yield from _faults(act, asked, stream, len(answer.chunks))
    for index, call in enumerate(act.tool_calls):
        yield from _frames(stream.tool_call(index, call))
    if act.noise:
        yield from _frames(stream.noise())
    if not act.no_terminal:
        yield from _frames(stream.closing(answer, _tokens(act, answer)))


def _faults(act: Act, asked: Asked, stream: FakeStream, n: int) -> Generator[Piece]:
    """What goes wrong after *n* chunks of text."""
    if act.malformed_after_chunks == n:
        yield Piece("frame", stream.malformed())
    if act.error_after_chunks == n:
        in_frame = act.error_form == "frame"
        yield Piece("frame", stream.error(act.error_kind) if in_frame else _raw_tail(act, asked))
        yield Piece("cut")
    if act.cut_after_chunks == n:
        yield Piece("cut")


def _raw_tail(act: Act, asked: Asked) -> bytes:
    """An error as several lines of JSON outside any event."""
    return json.dumps(error_body(asked.dialect, act.error_kind), indent=2).encode()


def _tokens(act: Act, answer: Reply) -> Tokens | None:
    if act.usage == "auto":
        return Tokens(completion=len(answer.chunks))
    return act.usage


def _frames(frames: list[bytes]) -> Generator[Piece]:
    return (Piece("frame", frame) for frame in frames)
