"""What holds for the streams of every provider."""

from __future__ import annotations

from typing import get_args

import pytest

from spillover.cloud_fallback.errors import ProviderError, Truncated
from spillover.cloud_fallback.http.frame import Frame
from spillover.cloud_fallback.providers.companies import COMPANIES, WireFormat
from tests.cloud_fallback.dialects.recorded import Recording, read
from tests.cloud_fallback.dialects.recordings import RECORDINGS

every_stream = pytest.mark.parametrize("recording", RECORDINGS, ids=lambda r: r.name)

UNKNOWN = {
    "sse": (
        Frame(name="weather_report", data=b'{"type":"weather_report","n":3,"sun":true}'),
        Frame(data=b"{}"),
        Frame(data=b""),
    ),
    "eventstream": (
        Frame(name="weatherReport", data=b'{"sun":true,"delta":[1],"usage":"none"}'),
        Frame(data=b"{}"),
        Frame(data=b""),
    ),
}
MALFORMED = (b"{", b'{"choices":[', b"[1]", b"7", b'"text"', b"null", b"\xff\xfe", b"<html>")


def test_every_wire_format_has_a_recording() -> None:
    recorded = {COMPANIES[recording.dialect].wire for recording in RECORDINGS}
    assert recorded == set(get_args(WireFormat))


@every_stream
def test_an_answer_is_read_whole(recording: Recording) -> None:
    decoder = recording.decoder()
    assert read(decoder, recording.frames) == recording.answer
    end = decoder.end()
    assert (end.reason, end.stop) == (recording.reason, recording.stop)
    assert (end.usage, end.model) == (recording.usage, recording.model)


@every_stream
def test_a_clean_end_before_the_terminal_event_is_never_a_stop(recording: Recording) -> None:
    for n_frames in range(recording.n_needed):
        decoder = recording.decoder()
        read(decoder, recording.frames[:n_frames])
        assert not decoder.is_done
        assert not decoder.is_complete
        with pytest.raises(Truncated):
            decoder.end()


@every_stream
def test_the_answer_is_complete_with_its_terminal_event(recording: Recording) -> None:
    for n_frames in range(recording.n_needed, len(recording.frames) + 1):
        decoder = recording.decoder()
        assert read(decoder, recording.frames[:n_frames]) == recording.answer
        assert decoder.is_complete or recording.dialect in ("gemini", "vertex")
        assert decoder.end().reason == recording.reason


@every_stream
def test_unknown_events_change_nothing(recording: Recording) -> None:
    for unknown in UNKNOWN["eventstream" if recording.dialect == "bedrock" else "sse"]:
        for place in range(len(recording.frames) + 1):
            frames = (*recording.frames[:place], unknown, *recording.frames[place:])
            decoder = recording.decoder()
            assert read(decoder, frames) == recording.answer
            assert decoder.end().usage == recording.usage


@every_stream
def test_an_unknown_event_may_have_known_fields_of_any_shape(recording: Recording) -> None:
    if recording.dialect not in ("anthropic", "cohere"):
        return  # theirs are the events that say what they are
    data = b'{"type":"weather","index":-1,"delta":"warm","usage":[],"message":7,"id":{}}'
    for name in ("", "weather", recording.frames[0].name):
        decoder = recording.decoder()
        assert read(decoder, (Frame(name=name, data=data), *recording.frames)) == recording.answer


@every_stream
def test_a_malformed_event_is_an_error_of_the_provider(recording: Recording) -> None:
    for place in range(recording.n_needed):
        for data in MALFORMED:
            decoder = recording.decoder()
            read(decoder, recording.frames[:place])
            with pytest.raises(ProviderError):
                decoder.feed(Frame(name=recording.frames[place].name, data=data))


@every_stream
def test_nothing_is_read_after_the_last_word(recording: Recording) -> None:
    decoder = recording.decoder()
    read(decoder, recording.frames)
    if decoder.is_done:
        assert read(decoder, recording.frames).text == ""
        assert decoder.feed(Frame(data=b"{broken")) == []
    assert decoder.end().reason == recording.reason
