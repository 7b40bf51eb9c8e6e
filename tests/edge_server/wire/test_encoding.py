"""No text can break a frame: the encoders against a reader that follows the standard."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from spillover.cloud_fallback.events import Failed, StreamEvent
from spillover.edge_server.wire.dialect import StreamEncoder
from spillover.edge_server.wire.llama_cpp.completions import LlamaCppStream, Wanted
from spillover.edge_server.wire.openai.answer import ChunkOptions, head_fields
from spillover.edge_server.wire.openai.chat import ChatStream
from spillover.edge_server.wire.openai.completions import CompletionStream
from spillover.runtime.events import (
    Delta,
    Finished,
    ReasoningDelta,
    Timings,
    TokenLogprob,
    TopLogprob,
    Usage,
)
from spillover.runtime.request import GenerationRequest
from tests.edge_server.wire.encoded import TEXTS, encoded
from tests.sse_reader import events_of

SURROGATES = st.text(st.characters(min_codepoint=0xD7F0, max_codepoint=0xE010), min_size=1)


def delta(
    kind: type[Delta | ReasoningDelta], choice: int, text: str, logprobs: bool
) -> StreamEvent:
    token = text.encode("utf-8", "replace")
    top = TopLogprob(token_id=1, token=token, logprob=-1.0)
    record = TokenLogprob(token_id=1, token=token, logprob=-1.0, entropy=0.5, top=(top,))
    return kind(choice=choice, text=text, token_ids=(1,), logprobs=(record,) if logprobs else ())


DELTAS = st.builds(
    delta, st.sampled_from([Delta, ReasoningDelta]), st.integers(0, 1), TEXTS, st.booleans()
)


def encoders(model: str) -> dict[str, StreamEncoder]:
    options = ChunkOptions(n=2, n_each=2, usage=True, progress=True)
    requests = (GenerationRequest(prompt="x", n=2),)
    wanted = Wanted(requests=requests, texts=("x",), model=model, n_ctx=100, stream=True)
    return {
        "chat": ChatStream(head_fields("chat.completion.chunk", "chatcmpl-0", model), options),
        "text": CompletionStream(head_fields("text_completion", "cmpl-0", model), options),
        "native": LlamaCppStream(wanted, progress=True),
    }


def finished(choice: int) -> Finished:
    usage = Usage(prompt_tokens=1, cached_tokens=0, completion_tokens=1)
    times = Timings(queue_ms=0.0, prefill_ms=1.0, decode_ms=1.0)
    return Finished(choice=choice, reason="stop", usage=usage, timings=times, stop="\r\n\u2028")


def text_in(kind: str, chunk: Any, choice: int) -> str:
    if kind == "native":
        return str(chunk["content"]) if chunk["index"] == choice else ""
    found = ""
    for part in chunk["choices"]:
        if part["index"] == choice and kind == "chat":
            part_delta = part["delta"]
            found += (part_delta.get("content") or "") + part_delta.get("reasoning_content", "")
        elif part["index"] == choice:
            found += part["text"]
    return found


@given(st.lists(DELTAS, max_size=8), TEXTS.filter(bool))
def test_every_event_arrives_as_it_was_whatever_its_text(
    deltas: list[Delta | ReasoningDelta], model: str
) -> None:
    events: list[StreamEvent] = [*deltas, finished(0), finished(1)]
    for kind, encoder in encoders(model).items():
        body = encoded(encoder, events)
        # Many clients split the text with splitlines, which knows more ends of lines.
        assert body.decode().splitlines() == body.decode().removesuffix("\n").split("\n")
        assert not any(line.startswith((b"id", b"event", b"retry")) for line in body.split(b"\n"))
        received = events_of(body)
        chunks = [json.loads(event.data) for event in received if event.data != "[DONE]"]
        assert len(chunks) == len(events) + {"chat": 3, "text": 1, "native": 0}[kind]
        for choice in (0, 1):
            wanted = "".join(d.text for d in deltas if d.choice == choice)
            assert "".join(text_in(kind, chunk, choice) for chunk in chunks) == wanted
        assert all(chunk["model"] == model for chunk in chunks if "model" in chunk)


@given(SURROGATES, st.booleans())
def test_half_a_character_does_not_end_the_stream(text: str, logprobs: bool) -> None:
    for encoder in encoders("m").values():
        body = encoder.feed(delta(Delta, 0, text, logprobs))
        (event,) = events_of(body)
        # Two halves that belong together may come as the one character that they are.
        whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        assert ("\ufffd" in event.data) == ("\ufffd" in whole)


@given(TEXTS)
def test_nothing_follows_a_failure(text: str) -> None:
    for encoder in encoders("m").values():
        body = encoder.feed(Failed(code="engine_error", message=text))
        body += encoder.feed(Delta(text=text)) + encoder.feed(finished(0)) + encoder.end()
        (event,) = events_of(body)
        assert json.loads(event.data)["error"]["message"] == text


def test_a_silent_stream_shows_life_as_the_owner_wants() -> None:
    for kind, encoder in encoders("m").items():
        assert encoder.silence() == b": keep-alive\n"
        encoder.keep_alive = "off"
        assert encoder.silence() == b""
        encoder.keep_alive = "event"
        (event,) = events_of(encoder.silence())
        chunk = json.loads(event.data)
        assert not text_in(kind, chunk, 0)
        if kind != "native":
            (first, *_) = events_of(encoder.open() or encoder.silence())
            assert chunk["id"] == json.loads(first.data)["id"]
            assert "role" not in chunk["choices"][0].get("delta", {})
