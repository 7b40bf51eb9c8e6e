"""The messages between parent and worker: length-prefixed MessagePack frames over two pipes.

One frame from the worker carries everything that one scheduler step has produced, so the cost per
token falls as more sequences run.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, TypeAlias

import msgspec
from msgspec import Struct

from spillover.runtime.conversions.choice import EngineChoice
from spillover.runtime.embedding_request import EmbeddingRequest
from spillover.runtime.engine import ModelCard, PrefixCounts, SlotState
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.events import EngineEvent
from spillover.runtime.fit.back_off import FailedFit, Free, LoadStage
from spillover.runtime.fit.context_fit import ContextFit
from spillover.runtime.options import EngineOptions
from spillover.runtime.request import GenerationRequest

MAX_FRAME_BYTES = 256 * 2**20
_LENGTH = struct.Struct("<I")


class Load(Struct, frozen=True, kw_only=True, tag=True):
    """First frame to a worker."""

    path: str
    name: str
    options: EngineOptions
    choice: EngineChoice
    failed: FailedFit | None = None
    """The last layout that was tried; None: this is the first try."""
    served: ContextFit | None = None
    """The layout in which answers were begun that go on."""
    most_bytes: int | None = None
    """What the model may take; None: what is free."""


class Submit(Struct, frozen=True, kw_only=True, tag=True):
    """Answer *request*. *resumed*: per choice the tokens generated in an earlier worker, None
    for a finished choice; empty for a new request."""

    id: int
    request: GenerationRequest
    seed: int
    resumed: tuple[tuple[int, ...] | None, ...] = ()


class Embed(Struct, frozen=True, kw_only=True, tag=True):
    """Make vectors or scores of the inputs of *request*, without those in *done*, which an earlier
    worker has made. *accepted*: one has accepted it."""

    id: int
    request: EmbeddingRequest
    done: tuple[int, ...] = ()
    accepted: bool = False


class Cancel(Struct, frozen=True, kw_only=True, tag=True):
    id: int


class AskTokens(Struct, frozen=True, kw_only=True, tag=True):
    id: int
    text: str
    add_special: bool
    parse_special: bool


class AskBytes(Struct, frozen=True, kw_only=True, tag=True):
    """The answer is Bytes, with *each* also how many each token has."""

    id: int
    token_ids: tuple[int, ...]
    each: bool = False


class AskPrompt(Struct, frozen=True, kw_only=True, tag=True):
    """What is the prompt of this conversation? The answer is a Prompt."""

    id: int
    request: GenerationRequest


class AskStatus(Struct, frozen=True, kw_only=True, tag=True):
    id: int


class SavePower(Struct, frozen=True, kw_only=True, tag=True):
    """Compute with less power, or with all again."""

    is_on: bool


class GiveBack(Struct, frozen=True, kw_only=True, tag=True):
    """Drop so much of what can be made again: another model needs the memory."""

    n_bytes: int


class MemoryAnswer(Struct, frozen=True, kw_only=True, tag=True):
    """The answer to MemoryShort: what others could give back is free now."""


class Quit(Struct, frozen=True, kw_only=True, tag=True):
    """Last frame to a worker: it saves what it has measured and ends."""


Command: TypeAlias = (
    Submit
    | Embed
    | Cancel
    | AskTokens
    | AskBytes
    | AskPrompt
    | AskStatus
    | SavePower
    | GiveBack
    | MemoryAnswer
    | Quit
)


WithoutId: TypeAlias = SavePower | GiveBack | MemoryAnswer | Quit


class Ready(Struct, frozen=True, kw_only=True, tag=True):
    """The model is loaded and has decoded once."""

    card: ModelCard
    choice: EngineChoice
    """The engine that was chosen, or the one that had to take its place."""


class LoadProgress(Struct, frozen=True, kw_only=True, tag=True):
    """This share of the weights has been read, from 0 to 1."""

    share: float


class Planned(Struct, frozen=True, kw_only=True, tag=True):
    """The worker is about to load the model in this layout, and makes *stage* first."""

    fit: ContextFit
    stage: LoadStage
    free: Free


class LoadFailed(Struct, frozen=True, kw_only=True, tag=True):
    message: str
    shortage: str = ""
    """How it showed that memory did not hold the layout: a smaller one may do."""


class MemoryShort(Struct, frozen=True, kw_only=True, tag=True):
    """The worker lacks so much memory: what can others give back?"""

    n_bytes: int


class Events(Struct, frozen=True, kw_only=True, tag=True):
    """(request id, event) pairs of one step, in order."""

    events: list[tuple[int, EngineEvent]]


class Rejected(Struct, frozen=True, kw_only=True, tag=True):
    """A request or question that cannot be served as asked; nothing was begun."""

    id: int
    message: str
    param: str | None = None
    retry_after_s: float | None = None
    """The queue is full."""
    n_prompt_tokens: int | None = None
    """The prompt is longer than the context."""
    n_ctx: int = 0
    is_input_too_long: bool = False
    """It is an input of an embedding request that is longer."""
    is_response_format_refused: bool = False
    """*message* says why the answer cannot be held to its response format."""


class Tokens(Struct, frozen=True, kw_only=True, tag=True):
    id: int
    token_ids: tuple[int, ...]


class Bytes(Struct, frozen=True, kw_only=True, tag=True):
    """What tokens say, all together. *n_bytes*: of each token, where that was asked for."""

    id: int
    content: bytes
    n_bytes: tuple[int, ...] = ()

    @classmethod
    def of(cls, ask: AskBytes, pieces: list[bytes]) -> Bytes:
        """The answer to *ask*; *pieces*: what each token says."""
        n_bytes = tuple(map(len, pieces)) if ask.each else ()
        return cls(id=ask.id, content=b"".join(pieces), n_bytes=n_bytes)


class Prompt(Struct, frozen=True, kw_only=True, tag=True):
    id: int
    text: str
    n_tokens: int


class Status(Struct, frozen=True, kw_only=True, tag=True):
    id: int
    slots: tuple[SlotState, ...]
    n_queued: int
    n_kv_used: int
    n_background: int = 0
    """Answers of the background that run or wait; the latter are not among *n_queued*."""
    n_steps: int
    """Calls of the model so far."""
    prefixes: PrefixCounts = PrefixCounts()


Report: TypeAlias = (
    Ready
    | Planned
    | LoadProgress
    | LoadFailed
    | MemoryShort
    | Events
    | Rejected
    | Tokens
    | Bytes
    | Prompt
    | Status
)
Answer: TypeAlias = Tokens | Bytes | Prompt | Status | Rejected


def _encode_path(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} does not travel between processes")


def _decode_path(kind: type, value: object) -> object:
    return kind(value)


_encoder = msgspec.msgpack.Encoder(enc_hook=_encode_path)


def encode(message: Load | Command | Report) -> bytes:
    """One frame; InvalidRequest when the message is too large for one, or holds what is no text,
    such as the name of a file in another encoding."""
    try:
        body = _encoder.encode(message)
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"{error.object[:200]!r} is not UTF-8 text: rename it") from error
    if len(body) > MAX_FRAME_BYTES:
        raise InvalidRequest(
            f"the request has {len(body)} bytes, more than a worker accepts: shorten it"
        )
    return _LENGTH.pack(len(body)) + body


def read_frame(stream: BinaryIO) -> bytes | None:
    """The next frame's body; None at the end of the stream, also when it ends inside a frame."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    if length > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {length} bytes exceeds the limit of {MAX_FRAME_BYTES}")
    body = stream.read(length)
    return body if len(body) == length else None


decode_load = msgspec.msgpack.Decoder(Load, dec_hook=_decode_path).decode
decode_command = msgspec.msgpack.Decoder(Command).decode
decode_report = msgspec.msgpack.Decoder(Report, dec_hook=_decode_path).decode
