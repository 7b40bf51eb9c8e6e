"""What Anthropic does in its streams."""

from __future__ import annotations

import pytest

from spillover.cloud_fallback.errors import ProviderError, Truncated
from spillover.cloud_fallback.http.frame import Frame
from spillover.cloud_fallback.providers.dialects.dialect import Decoder
from tests.cloud_fallback.dialects.recorded import decoder_of, named, read


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("end_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("refusal", "content_filter"),
        ("tool_use", "tool_calls"),
    ],
)
def test_anthropics_stop_reasons(told: str, reason: str) -> None:
    assert anthropic_end(told).end().reason == reason


def anthropic_end(told: str) -> Decoder:
    decoder = decoder_of("anthropic")
    read(
        decoder,
        named(
            f'message_delta {{"type":"message_delta","delta":{{"stop_reason":"{told}"}}}}',
            'message_stop {"type":"message_stop"}',
        ),
    )
    return decoder


def test_a_turn_that_was_paused_is_not_complete() -> None:
    with pytest.raises(Truncated, match="paused"):
        anthropic_end("pause_turn").end()
    with pytest.raises(ProviderError, match="not known here"):
        anthropic_end("something_new").end()


def test_anthropics_message_stop_without_a_reason_is_not_a_stop() -> None:
    decoder = decoder_of("anthropic")
    decoder.feed(Frame(name="message_stop", data=b'{"type":"message_stop"}'))
    with pytest.raises(Truncated):
        decoder.end()


def test_a_second_message_start_changes_the_model_and_nothing_else() -> None:
    start = (
        'message_start {{"type":"message_start","message":{{"id":"m","model":"{}",'
        '"usage":{{"input_tokens":{},"output_tokens":1}}}}}}'
    )
    decoder = decoder_of("anthropic")
    read(decoder, named(start.format("claude-opus-5", 5)))
    decoder.feed(Frame(data=b'{"type":"content_block_delta","delta":{"text":"Hel"}}'))
    read(decoder, named(start.format("claude-haiku-4-5", 6)))
    read(
        decoder,
        named(
            'message_delta {"type":"message_delta","delta":{"stop_reason":"end_turn"},'
            '"usage":{"output_tokens":9}}',
            'message_stop {"type":"message_stop"}',
        ),
    )
    end = decoder.end()
    assert end.model == "claude-haiku-4-5"
    assert end.usage
    assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (6, 9)


def test_a_model_that_steps_in_is_named() -> None:
    decoder = anthropic_end("end_turn")
    assert decoder.end().model is None
    for to in ('{"model":"claude-haiku-4-5"}', '"claude-haiku-4-5"'):
        decoder = decoder_of("anthropic")
        block = f'{{"type":"fallback","from":{{"model":"a"}},"to":{to},"trigger":"x"}}'
        read(
            decoder,
            named(
                f'content_block_start {{"type":"content_block_start","content_block":{block}}}',
                'message_delta {"type":"message_delta","delta":{"stop_reason":"end_turn"}}',
                'message_stop {"type":"message_stop"}',
            ),
        )
        assert decoder.end().model == "claude-haiku-4-5"
