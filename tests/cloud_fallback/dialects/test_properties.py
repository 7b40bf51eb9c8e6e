"""What holds whatever a provider sends."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from spillover.cloud_fallback.errors import ProviderError
from spillover.cloud_fallback.http.frame import Frame
from spillover.cloud_fallback.providers.companies import COMPANIES
from spillover.cloud_fallback.providers.dialects.decoding import PrefilledText
from spillover.cloud_fallback.providers.dialects.dialect import Part
from spillover.cloud_fallback.providers.dialects.encoding import HttpRequest, safe_id
from tests.cloud_fallback.dialects.conversations import dialect_for
from tests.cloud_fallback.dialects.recorded import joined

NAMES = [
    "messageStart",
    "contentBlockStart",
    "contentBlockDelta",
    "messageStop",
    "metadata",
    "message_start",
    "content_block_start",
    "content_block_delta",
    "message_delta",
    "message_stop",
    "error",
    "ping",
    "message-start",
    "content-start",
    "content-delta",
    "tool-plan-delta",
    "tool-call-start",
    "tool-call-delta",
    "message-end",
]
KEYS = [
    "id",
    "type",
    "object",
    "model",
    "choices",
    "index",
    "delta",
    "content",
    "reasoning",
    "refusal",
    "tool_calls",
    "function",
    "name",
    "arguments",
    "finish_reason",
    "usage",
    "prompt_tokens",
    "completion_tokens",
    "error",
    "code",
    "message",
    "status",
    "content_block",
    "text",
    "thinking",
    "partial_json",
    "stop_reason",
    "input_tokens",
    "output_tokens",
    "candidates",
    "parts",
    "thought",
    "functionCall",
    "args",
    "finishReason",
    "promptFeedback",
    "blockReason",
    "usageMetadata",
    "promptTokenCount",
    "token",
    "special",
    "generated_text",
    "details",
    "generated_tokens",
    "input_length",
    "start",
    "toolUse",
    "toolUseId",
    "input",
    "contentBlockIndex",
    "stopReason",
    "inputTokens",
    "tool_plan",
    "tokens",
]
WORDS = st.sampled_from([*NAMES, "stop", "STOP", "tool_use", "COMPLETE", "end_turn", "a\n", ""])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    WORDS,
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)
    ),
    max_leaves=12,
)
EVENTS = st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6)


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    value: Any = draw(EVENTS)
    name = draw(st.sampled_from(["", *NAMES]))
    if draw(st.booleans()):
        value["type"] = name
    data = json.dumps(value).encode()
    if draw(st.integers(0, 9)) == 0:
        data = data[: draw(st.integers(0, len(data)))]
    return Frame(name=name, data=data, is_exception=draw(st.integers(0, 19)) == 0)


@given(st.sampled_from(tuple(COMPANIES)), st.lists(frames(), max_size=6), st.binary(max_size=30))
@settings(max_examples=250, deadline=None)
def test_any_frames_yield_only_parts_and_provider_errors(
    name: Any, sent: list[Frame], tail: bytes
) -> None:
    decoder = dialect_for(name).decoder()
    parts: list[Part] = []
    try:
        for frame in sent:
            parts += decoder.feed(frame)
        end = decoder.end(tail)
        assert end.reason in ("stop", "length", "tool_calls", "content_filter")
    except ProviderError:
        pass
    joined(parts)


@given(st.sampled_from(tuple(COMPANIES)), st.integers(200, 599), VALUES, st.binary(max_size=40))
@settings(max_examples=120, deadline=None)
def test_every_answer_becomes_a_provider_error(
    name: Any, status: int, value: Any, junk: bytes
) -> None:
    dialect = dialect_for(name)
    for body in (json.dumps(value).encode(), json.dumps({"error": value}).encode(), junk):
        assert isinstance(dialect.error(status, {}, body), ProviderError)


TURNS = st.text(st.sampled_from("ab \n"), max_size=8)


@given(TURNS, TURNS, st.data())
def test_an_echo_is_taken_off_however_it_is_cut(turn: str, rest: str, data: st.DataObject) -> None:
    text = turn.rstrip()
    sent = HttpRequest(path="", headers={}, body=b"", prefilled=text, trimmed=turn[len(text) :])
    whole = turn + rest
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)), max_size=5)))
    places = [0, *cuts, len(whole)]
    joiner = PrefilledText(sent, echoes=True)
    new = "".join(joiner.feed(whole[a:b]) for a, b in pairwise(places))
    new += joiner.flush()
    assert new == rest or not text  # without a turn there is nothing to echo


@given(st.text(max_size=70), st.text(max_size=70))
def test_ids_fit_the_alphabet_and_stay_apart(one: str, other: str) -> None:
    first, second = safe_id(one), safe_id(other)
    assert 0 < len(first) <= 64
    assert first.isascii()
    assert (first == second) == (one == other)
