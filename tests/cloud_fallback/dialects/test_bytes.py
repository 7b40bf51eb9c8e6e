"""From bytes to the answer: the same however they are cut."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spillover.cloud_fallback.errors import ProviderError
from spillover.cloud_fallback.http.eventstream import EventStream
from spillover.cloud_fallback.http.frame import Frame
from spillover.cloud_fallback.http.server_sent_events import ServerSentEvents
from spillover.cloud_fallback.providers.dialects.dialect import End
from tests.cloud_fallback.dialects.recorded import Answer, Recording, joined, sse
from tests.cloud_fallback.dialects.recordings import GEMINI_TEXT, OPENAI_TEXT, RECORDINGS
from tests.fakes.streams.bedrock import frame as binary_frame

every_stream = pytest.mark.parametrize("recording", RECORDINGS, ids=lambda r: r.name)
LINE_ENDS = ("\n", "\r\n", "\r")


def wire(frames: Iterable[Frame], line_end: str = "\n") -> bytes:
    """*frames* as server-sent events, with a comment between them."""
    text = ": ping\n\n"
    for frame in frames:
        text += f"event: {frame.name}\n" if frame.name else ""
        text += f"data: {frame.data.decode()}\n\n"
    return text.replace("\n", line_end).encode()


def bytes_of(recording: Recording, line_end: str = "\n") -> bytes:
    if recording.dialect != "bedrock":
        return wire(recording.frames, line_end)
    decode = msgspec.json.decode
    return b"".join(binary_frame(f.name, decode(f.data)) for f in recording.frames)


def heard(recording: Recording, pieces: Iterable[bytes]) -> tuple[Answer, End | ProviderError]:
    """What *pieces* say, up to their end."""
    frames = EventStream() if recording.dialect == "bedrock" else ServerSentEvents()
    decoder = recording.decoder()
    parts = [p for piece in pieces for f in frames.feed(piece) for p in decoder.feed(f)]
    parts += [part for frame in frames.end() for part in decoder.feed(frame)]
    try:
        return joined(parts), decoder.end(frames.tail)
    except ProviderError as error:
        return joined(parts), error


@every_stream
@pytest.mark.parametrize("line_end", LINE_ENDS)
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_pieces_of_any_size_say_the_same(recording: Recording, line_end: str, size: int) -> None:
    data = bytes_of(recording, line_end)
    pieces = [data[i : i + size] for i in range(0, len(data), size)]
    answer, end = heard(recording, pieces)
    assert answer == recording.answer
    assert isinstance(end, End)
    assert (end.reason, end.usage) == (recording.reason, recording.usage)


@every_stream
@given(cuts=st.sets(st.integers(0, 5_000), max_size=30), line_end=st.sampled_from(LINE_ENDS))
@settings(max_examples=20, deadline=None)
def test_cuts_anywhere_change_nothing(recording: Recording, cuts: set[int], line_end: str) -> None:
    data = bytes_of(recording, line_end)
    places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    pieces = [data[a:b] for a, b in pairwise(places)]
    assert heard(recording, pieces) == heard(recording, [data])


@every_stream
def test_a_stream_that_ends_anywhere_is_complete_or_an_error(recording: Recording) -> None:
    data = bytes_of(recording)
    whole = recording.answer
    n_complete = 0
    for n_bytes in range(0, len(data), 3):
        answer, end = heard(recording, [data[:n_bytes]])
        assert whole.text.startswith(answer.text)
        assert whole.reasoning.startswith(answer.reasoning)
        if isinstance(end, End):
            n_complete += 1
            assert (answer, end.reason) == (whole, recording.reason)
    n_tail = len(data) - len(bytes_of(_only_needed(recording)))
    assert n_complete <= n_tail / 3 + 1


def _only_needed(recording: Recording) -> Recording:
    frames = recording.frames[: recording.n_needed]
    return msgspec.structs.replace(recording, frames=frames)


def test_an_error_in_bare_lines_after_the_last_event_is_found_in_the_bytes() -> None:
    error = '{\n  "error": {\n    "code": 503,\n    "status": "UNAVAILABLE"\n  }\n}\n'
    for line_end in LINE_ENDS:
        data = wire(GEMINI_TEXT.frames[:2], line_end) + error.replace("\n", line_end).encode()
        for n_bytes in (1, len(data)):
            pieces = [data[i : i + n_bytes] for i in range(0, len(data), n_bytes)]
            answer, end = heard(GEMINI_TEXT, pieces)
            assert answer.text == "It is four"
            assert type(end).__name__ == "Overloaded"


def test_line_ends_of_unicode_end_no_event() -> None:
    text = '{"choices":[{"index":0,"delta":{"content":"a\u2028b\u0085c"},"finish_reason":"stop"}]}'
    recording = msgspec.structs.replace(
        OPENAI_TEXT, frames=sse(text), answer=Answer(text="a\u2028b\u0085c"), n_needed=1
    )
    assert heard(recording, [bytes_of(recording)])[0] == recording.answer
