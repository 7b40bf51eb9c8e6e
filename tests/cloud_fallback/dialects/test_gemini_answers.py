"""What Gemini does in its streams."""

from __future__ import annotations

import pytest

from spillover.cloud_fallback.errors import (
    ContentBlocked,
    Overloaded,
    ProviderError,
    RateLimited,
    Truncated,
)
from spillover.cloud_fallback.http.frame import Frame
from tests.cloud_fallback.dialects.recorded import decoder_of


def gemini(fields: str) -> Frame:
    return Frame(data=f'{{"candidates":[{{{fields}}}]}}'.encode())


HELLO_PART = '"content":{"parts":[{"text":"Hel"}]}'


def test_a_finish_reason_on_every_frame_ends_nothing_before_the_stream_does() -> None:
    decoder = decoder_of("gemini")
    for _ in range(3):
        assert decoder.feed(gemini(f'{HELLO_PART},"finishReason":"STOP"'))
        assert not decoder.is_done
    assert decoder.end().reason == "stop"


def test_half_an_event_after_a_finish_reason_is_not_a_stop() -> None:
    decoder = decoder_of("gemini")
    decoder.feed(gemini(f'{HELLO_PART},"finishReason":"STOP"'))
    with pytest.raises(Truncated):
        decoder.end(b'data: {"candidates":[{"content":{"pa')


TAIL = b"""{
  "error": {
    "code": 503,
    "message": "The model is overloaded. Please try again later.",
    "status": "UNAVAILABLE"
  }
}
"""


@pytest.mark.parametrize(
    "tail", [TAIL, b"[" + TAIL + b"]", b"junk\n" + TAIL + b"\n]", b"\r\n" + TAIL]
)
@pytest.mark.parametrize("finish", ["", ',"finishReason":"STOP"'])
def test_a_bare_error_after_the_last_event_is_found(tail: bytes, finish: str) -> None:
    decoder = decoder_of("gemini")
    decoder.feed(gemini(HELLO_PART + finish))
    with pytest.raises(Overloaded, match="503, UNAVAILABLE"):
        decoder.end(tail)


@pytest.mark.parametrize("name", ["openai", "anthropic", "cohere", "tgi"])
def test_a_bare_error_instead_of_a_stream_is_found(name: str) -> None:
    tail = b'{"error": {"message": "slow down", "type": "rate_limit_error"}}'
    with pytest.raises(RateLimited):
        decoder_of(name).end(tail)


@pytest.mark.parametrize("reason", ["SAFETY", "PROHIBITED_CONTENT", "OTHER"])
def test_a_prompt_that_gemini_blocks_is_stopped_by_policy(reason: str) -> None:
    frame = Frame(data=f'{{"promptFeedback":{{"blockReason":"{reason}"}}}}'.encode())
    with pytest.raises(ContentBlocked):
        decoder_of("gemini").feed(frame)


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("MAX_TOKENS", "length"),
        ("RECITATION", "content_filter"),
        ("SPII", "content_filter"),
        ("MODEL_ARMOR", "content_filter"),
    ],
)
def test_geminis_finish_reasons(told: str, reason: str) -> None:
    decoder = decoder_of("gemini")
    decoder.feed(gemini(f'"finishReason":"{told}"'))
    assert decoder.end().reason == reason


@pytest.mark.parametrize("told", ["MALFORMED_FUNCTION_CALL", "OTHER", "CONTINUATION", "NEW"])
def test_geminis_failures_are_not_a_stop(told: str) -> None:
    decoder = decoder_of("gemini")
    decoder.feed(gemini(f'"finishReason":"{told}"'))
    with pytest.raises(ProviderError):
        decoder.end()
