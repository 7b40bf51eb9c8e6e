"""Recorded answers: all that the policies see of a local leg, so that it can be replayed."""

from __future__ import annotations

import lzma
import time
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import IO, Literal

import msgspec
from msgspec import Struct

from spillover.cloud_fallback.policy.calibration import fingerprint
from spillover.cloud_fallback.policy.watch import N_TOP_LOGPROBS
from spillover.edge_server.calibration.items import Item, is_right
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.engine import TextEngine
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
from spillover.runtime.sampling import Sampling

MAX_TOKENS = 512
"""Of an item that sets none."""
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
    """Of the model; see calibration.fingerprint."""
    n_params: int | None = None
    """Of the model; None: unknown."""
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
    """Whether the answer is wrong; None: unknown."""

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
        """The engine's events, each with the seconds since the request."""
        n = self.n_prompt_tokens
        yield 0.0, Queued(position=0, n_prompt_tokens=n)
        yield self.prefilled_ms / 1e3, Prefilling(n_read=n, n_cached=0, n_prompt_tokens=n)
        for piece in self.texts:
            yield piece.ms / 1e3, _event(piece)
        end_s = self.texts[-1].ms / 1e3 if self.texts else self.prefilled_ms / 1e3
        usage = Usage(prompt_tokens=n, cached_tokens=0, completion_tokens=self.n_tokens)
        timings = Timings(queue_ms=0.0, prefill_ms=0.0, decode_ms=0.0)
        yield end_s, Finished(reason=self.finish, usage=usage, timings=timings)


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


def record(
    engine: TextEngine,
    items: Sequence[Item],
    *,
    sampling: Sampling,
    max_tokens: int = MAX_TOKENS,
    n_parallel: int = 1,
) -> Generator[Trace]:
    """Ask a model every item, *n_parallel* at a time: one labelled trace each, in order. Raises
    what the engine raises.

    Item i samples with the seed of *sampling* + i, so that no lucky draw decides for all.
    """
    cancellation = Cancellation()
    with ThreadPoolExecutor(n_parallel) as pool:
        try:
            answers = [
                pool.submit(
                    _answer, engine, item, _request(item, i, sampling, max_tokens), cancellation
                )
                for i, item in enumerate(items)
            ]
            for answer in answers:
                yield answer.result()
        finally:
            cancellation.cancel()
            pool.shutdown(wait=False, cancel_futures=True)


def _request(item: Item, number: int, sampling: Sampling, max_tokens: int) -> GenerationRequest:
    seed = None if sampling.seed is None else sampling.seed + number
    return GenerationRequest(
        messages=item.conversation,
        sampling=msgspec.structs.replace(sampling, seed=seed),
        max_tokens=item.max_tokens or max_tokens,
        logprobs=N_TOP_LOGPROBS,
    ).checked()


def _answer(
    engine: TextEngine, item: Item, request: GenerationRequest, cancellation: Cancellation
) -> Trace:
    began = time.monotonic()
    with closing(engine.stream(request, cancellation)) as events:
        timed = ((time.monotonic() - began, event) for event in events)
        trace = recorded(item.id, request, timed)
    card = engine.card
    facts = {"fingerprint": fingerprint(card), "n_params": card.n_params}
    return _labelled(msgspec.structs.replace(trace, model=engine.name, **facts), item)


def recorded(
    name: str, request: GenerationRequest, events: Iterable[tuple[float, EngineEvent]]
) -> Trace:
    """The trace of one answer from its events, each with the seconds since the request."""
    texts: list[TracedText] = []
    prefilled_s = 0.0
    for elapsed_s, event in events:
        match event:
            case Prefilling():
                prefilled_s = elapsed_s
            case Delta(choice=0) | ReasoningDelta(choice=0):
                texts.append(_traced(event, elapsed_s))
            case Finished():
                return Trace(
                    id=name,
                    messages=request.messages,
                    max_tokens=request.max_tokens,
                    response_format=request.response_format,
                    n_prompt_tokens=event.usage.prompt_tokens,
                    prefilled_ms=round(prefilled_s * 1e3, 1),
                    texts=tuple(texts),
                    finish=event.reason,
                    n_tokens=event.usage.completion_tokens,
                )
    raise AssertionError("an engine's stream ends with Finished")


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


def relabel(traces: Iterable[Trace], items: Sequence[Item]) -> list[Trace]:
    """The recorded answers to *items*, judged by their checks as they are now.

    InvalidRequest names an item without a recorded answer, or says that there are several models.
    """
    by_id = {trace.id: trace for trace in traces}
    if len({trace.fingerprint for trace in by_id.values()}) > 1:
        raise InvalidRequest("the recorded answers come from several models: give those of one")
    found = []
    for item in items:
        trace = by_id.get(item.id)
        if trace is None or trace.messages != item.conversation:
            raise InvalidRequest(f"there is no recorded answer to the prompt {item.id!r}")
        found.append(_labelled(trace, item))
    return found


def _labelled(trace: Trace, item: Item) -> Trace:
    right = is_right(item, trace.answer, ended=trace.finish == "stop")
    return msgspec.structs.replace(trace, group=item.group, wrong=not right)


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
        raise InvalidRequest(f"{path}, line {number} is not a trace: {error}") from error
