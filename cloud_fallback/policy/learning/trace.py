"""Recorded answers: all that the policies see of a local leg, so that it can be seen again."""

from __future__ import annotations

import lzma
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import IO, Literal

import msgspec
from msgspec import Struct

from spillover.runtime.errors import InvalidRequest
from spillover.runtime.events import (
    Delta,
    EngineEvent,
    Finished,
    FinishReason,
    Prefilling,
    Queued,
    ReasoningDelta,
    Timings,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from spillover.runtime.request import GenerationRequest, Message, ResponseFormat

_DIGITS = 4


class TracedToken(Struct, frozen=True, array_like=True):
    """One token; *top* holds the logprobs of the likeliest ones, *piece* the token's bytes where
    they are not the text of its event."""

    id: int
    logprob: float
    entropy: float
    top: tuple[float, ...] = ()
    piece: bytes | None = None


class TracedText(Struct, frozen=True, array_like=True):
    """A piece of text, *ms* after the request was sent."""

    ms: float
    kind: Literal["answer", "reasoning"]
    text: str
    tokens: tuple[TracedToken, ...]


class Trace(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One answer of one model."""

    id: str
    model: str = ""
    fingerprint: str = ""
    """Of the model, as calibrations are found by."""
    group: str = ""
    messages: tuple[Message, ...]
    max_tokens: int | None = None
    response_format: ResponseFormat | None = None
    n_prompt_tokens: int
    prefilled_ms: float = 0.0
    texts: tuple[TracedText, ...]
    finish: FinishReason
    n_tokens: int
    wrong: bool | None = None
    """Whether the answer is wrong; None: nobody knows."""

    @property
    def request(self) -> GenerationRequest:
        return GenerationRequest(
            messages=self.messages,
            max_tokens=self.max_tokens,
            response_format=self.response_format,
            logprobs=2,
        )

    @property
    def answer(self) -> str:
        return "".join(piece.text for piece in self.texts if piece.kind == "answer")

    def events(self) -> Generator[tuple[float, EngineEvent]]:
        """What the engine said, with the seconds since the request was sent."""
        n = self.n_prompt_tokens
        yield 0.0, Queued(position=0, n_prompt_tokens=n)
        yield self.prefilled_ms / 1e3, Prefilling(n_read=n, n_cached=0, n_prompt_tokens=n)
        for piece in self.texts:
            yield piece.ms / 1e3, _event(piece)
        end_s = self.texts[-1].ms / 1e3 if self.texts else self.prefilled_ms / 1e3
        yield end_s, self._finished()

    def _finished(self) -> Finished:
        usage = Usage(
            prompt_tokens=self.n_prompt_tokens, cached_tokens=0, completion_tokens=self.n_tokens
        )
        timings = Timings(queue_ms=0.0, prefill_ms=0.0, decode_ms=0.0)
        return Finished(reason=self.finish, usage=usage, timings=timings)


def _event(piece: TracedText) -> Delta | ReasoningDelta:
    logprobs = tuple(
        TokenLogprob(
            token_id=token.id,
            token=piece.text.encode() if token.piece is None else token.piece,
            logprob=token.logprob,
            entropy=token.entropy,
            top=tuple(TopLogprob(token_id=-1, token=b"", logprob=lp) for lp in token.top),
        )
        for token in piece.tokens
    )
    kind = Delta if piece.kind == "answer" else ReasoningDelta
    ids = tuple(token.id for token in piece.tokens)
    return kind(text=piece.text, token_ids=ids, logprobs=logprobs)


class Recorder:
    """Makes a trace of the events of one answer."""

    def __init__(self) -> None:
        self._texts: list[TracedText] = []
        self._prefilled_s = 0.0

    def see(self, event: EngineEvent, elapsed_s: float) -> None:
        match event:
            case Prefilling():
                self._prefilled_s = elapsed_s
            case Delta(choice=0) | ReasoningDelta(choice=0):
                self._texts.append(_traced(event, elapsed_s))

    def trace(self, name: str, request: GenerationRequest, end: Finished) -> Trace:
        return Trace(
            id=name,
            messages=request.messages,
            max_tokens=request.max_tokens,
            response_format=request.response_format,
            n_prompt_tokens=end.usage.prompt_tokens,
            prefilled_ms=round(self._prefilled_s * 1e3, 1),
            texts=tuple(self._texts),
            finish=end.reason,
            n_tokens=end.usage.completion_tokens,
        )


def _traced(event: Delta | ReasoningDelta, elapsed_s: float) -> TracedText:
    whole = event.text.encode()
    tokens = tuple(
        TracedToken(
            lp.token_id,
            round(lp.logprob, _DIGITS),
            round(lp.entropy, _DIGITS),
            tuple(round(top.logprob, _DIGITS) for top in lp.top[:2]),
            None if lp.token == whole else lp.token,
        )
        for lp in event.logprobs
    )
    kind: Literal["answer", "reasoning"] = "answer" if isinstance(event, Delta) else "reasoning"
    return TracedText(round(elapsed_s * 1e3, 1), kind, event.text, tokens)


def write(path: Path, traces: Iterable[Trace]) -> None:
    """One line of JSON for each; compressed when the name ends in .xz."""
    encoder = msgspec.json.Encoder()
    with _opened(path, "wb") as file:
        for trace in traces:
            file.write(encoder.encode(trace) + b"\n")


def read(path: Path) -> Generator[Trace]:
    """The traces of a file, one at a time. InvalidRequest names the line at fault."""
    decoder = msgspec.json.Decoder(Trace)
    try:
        with _opened(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _decoded(decoder, line, path, number)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise InvalidRequest(f"{path} cannot be read: {error}") from error


def _opened(path: Path, mode: Literal["rb", "wb"]) -> IO[bytes]:
    return lzma.open(path, mode) if path.suffix == ".xz" else path.open(mode)


def _decoded(decoder: msgspec.json.Decoder[Trace], line: bytes, path: Path, number: int) -> Trace:
    try:
        return decoder.decode(line)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"{path}, line {number} is no trace: {error}") from error
