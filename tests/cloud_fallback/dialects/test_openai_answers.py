"""What servers that speak OpenAI's dialect do in their streams."""

from __future__ import annotations

import pytest

from spillover.cloud_fallback.errors import ProviderError, Truncated
from spillover.cloud_fallback.http.frame import Frame
from spillover.cloud_fallback.providers.dialects.decoding import MAX_TOOL_CALLS
from spillover.cloud_fallback.providers.dialects.dialect import ProviderUsage
from tests.cloud_fallback.dialects.conversations import PARTIAL, ask, dialect_for, encoded
from tests.cloud_fallback.dialects.recorded import Answer, Call, decoder_of, named, read, sse


def chunk(delta: str, finish: str | None = None) -> Frame:
    reason = f'"{finish}"' if finish else "null"
    data = f'{{"id":"c-1","choices":[{{"index":0,"delta":{delta},"finish_reason":{reason}}}]}}'
    return Frame(data=data.encode())


def call(fields: str) -> str:
    return f'{{"tool_calls":[{{{fields}}}]}}'


def function(arguments: str, name: str = "clock") -> str:
    return f'"function":{{"name":"{name}","arguments":"{arguments}"}}'


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("stop", "stop"),
        ("eos", "stop"),
        ("length", "length"),
        ("content_filter", "content_filter"),
        ("function_call", "tool_calls"),
    ],
)
def test_openais_finish_reasons(told: str, reason: str) -> None:
    decoder = decoder_of("openai")
    decoder.feed(chunk('{"content":"x"}', told))
    assert decoder.end().reason == reason


@pytest.mark.parametrize(
    ("told", "counted"),
    [
        ('"prompt_tokens_details":{"cached_tokens":900}', (40, 9, 40, 0)),
        (
            '"total_tokens":143,"completion_tokens_details":{"reasoning_tokens":94}',
            (40, 103, 0, 94),
        ),
        ('"completion_tokens_details":{"reasoning_tokens":94}', (40, 9, 0, 9)),
    ],
    ids=["cached apart", "reasoning apart", "reasoning alone"],
)
def test_servers_that_count_a_part_apart_from_its_whole(
    told: str, counted: tuple[int, int, int, int]
) -> None:
    """The answer cost less than nothing, and gave its owner a larger budget."""
    decoder = decoder_of("openai")
    usage = f'{{"prompt_tokens":40,"completion_tokens":9,{told}}}'
    read(decoder, [chunk("{}", "stop"), *sse(f'{{"choices":[],"usage":{usage}}}')])
    assert decoder.end().usage == ProviderUsage(
        prompt_tokens=counted[0],
        completion_tokens=counted[1],
        cached_tokens=counted[2],
        reasoning_tokens=counted[3],
    )


def test_more_tokens_than_anybody_can_count_are_no_count() -> None:
    """No record holds what they would cost, and the whole answer ended with an error."""
    decoder = decoder_of("openai")
    usage = f'{{"prompt_tokens":{2**53},"completion_tokens":9}}'
    read(decoder, [chunk("{}", "stop"), *sse(f'{{"choices":[],"usage":{usage}}}')])
    assert decoder.end().usage is None


@pytest.mark.parametrize("told", ["error", "abort", "something_new"])
def test_an_unknown_finish_reason_is_not_a_stop(told: str) -> None:
    with pytest.raises(ProviderError, match="not known here"):
        decoder_of("openai").feed(chunk("{}", told))


def test_done_without_a_finish_reason_is_not_a_stop() -> None:
    decoder = decoder_of("openai")
    read(decoder, [chunk('{"content":"x"}'), Frame(data=b" [DONE] ")])
    assert decoder.is_done
    with pytest.raises(Truncated):
        decoder.end()


def test_a_refusal_is_text_and_ends_as_filtered() -> None:
    decoder = decoder_of("openai")
    frames = [chunk('{"refusal":"I can"}'), chunk('{"refusal":"not."}'), chunk("{}", "stop")]
    assert read(decoder, frames).text == "I cannot."
    assert decoder.end().reason == "content_filter"


def test_reasoning_is_kept_apart_by_any_of_its_names() -> None:
    frames = [
        chunk('{"reasoning":"a","reasoning_content":"a"}'),
        chunk('{"reasoning":"b"}'),
        chunk('{"reasoning_content":"c","content":"x"}'),
        chunk(
            '{"content":[{"type":"thinking","thinking":[{"type":"text","text":"d"}]},'
            '{"type":"text","text":"y"}]}'
        ),
    ]
    assert read(decoder_of("openai"), frames) == Answer(text="xy", reasoning="abcd")


def test_other_choices_and_null_fields_are_ignored() -> None:
    frames = sse(
        '{"id":null,"model":null,"choices":[{"index":1,"delta":{"content":"b"},'
        '"finish_reason":"stop"}],"usage":null}',
        '{"choices":null}',
        '{"choices":[{"index":0,"delta":{"content":null,"tool_calls":null}}]}',
        '{"choices":[{"index":0,"delta":null,"finish_reason":""}]}',
    )
    decoder = decoder_of("openai")
    assert read(decoder, frames) == Answer()
    with pytest.raises(Truncated):
        decoder.end()


@pytest.mark.parametrize(
    "deltas",
    [
        # every call has the index 0
        [f'"index":0,"id":"a",{function("{}")}', f'"index":0,"id":"b",{function("{}")}'],
        # no index at all
        [f'"id":"a",{function("")}', '"function":{"arguments":"{}"}', f'"id":"b",{function("")}'],
        # the id comes again with each piece
        [
            f'"index":0,"id":"a",{function("{")}',
            f'"index":0,"id":"a",{function("}")}',
            f'"index":1,"id":"b",{function("{}")}',
        ],
        # pieces of several calls in turn
        [
            f'"index":3,"id":"a",{function("{")}',
            f'"index":7,"id":"b",{function("{")}',
            '"index":3,"function":{"arguments":"}"}',
            '"index":7,"function":{"arguments":"}"}',
        ],
        # the name comes after the id
        ['"index":0,"id":"a"', f'"index":0,{function("{}")}', f'"index":1,"id":"b",{function("")}'],
    ],
    ids=["index 0", "no index", "id again", "in turn", "name later"],
)
def test_tool_calls_are_distinguished_however_a_server_marks_them(deltas: list[str]) -> None:
    decoder = decoder_of("openai")
    answer = read(decoder, [*(chunk(call(delta)) for delta in deltas), chunk("{}", "stop")])
    assert answer.calls == (Call("a", "clock", "{}"), Call("b", "clock", "{}"))
    assert decoder.end().reason == "tool_calls"


def test_a_call_without_an_id_gets_one_of_the_answers_own() -> None:
    answer = read(decoder_of("openai"), [chunk(call(f'"index":0,{function("{}")}'))])
    assert answer.calls[0].id == "call_c-1_0"


def test_a_call_without_a_name_is_malformed() -> None:
    piece = chunk(call('"index":0,"function":{"arguments":"{"}'))
    with pytest.raises(ProviderError, match="without a name"):
        decoder_of("openai").feed(piece)


@pytest.mark.parametrize("fields", [function("{}"), '"function":null'], ids=["calls", "no names"])
def test_the_number_of_tool_calls_is_bounded(fields: str) -> None:
    decoder = decoder_of("openai")
    for n in range(MAX_TOOL_CALLS):
        decoder.feed(chunk(call(f'"index":{n},"id":"{n}",{fields}')))
    with pytest.raises(ProviderError):
        decoder.feed(chunk(call(f'"index":999,"id":"999",{fields}')))


def test_a_call_that_is_opened_again_keeps_the_numbers_apart() -> None:
    start = (
        'content_block_start {"type":"content_block_start","index":0,"content_block":'
        '{"type":"tool_use","id":"toolu_1","name":"clock","input":{}}}'
    )
    answer = read(decoder_of("anthropic"), named(start, start, start))
    assert [call.name for call in answer.calls] == ["clock"] * 3


@pytest.mark.parametrize(
    ("name", "frame"),
    [
        ("anthropic", Frame(data=b'{"type":"content_block_start","content_block":'
                                 b'{"type":"tool_use","id":"a"}}')),
        ("gemini", Frame(data=b'{"candidates":[{"content":{"parts":[{"functionCall":{}}]}}]}')),
        ("cohere", Frame(data=b'{"type":"tool-call-start"}')),
        ("bedrock", Frame(name="contentBlockStart", data=b'{"start":{"toolUse":{}}}')),
    ],
)  # fmt: skip
def test_no_provider_may_leave_a_calls_name_out(name: str, frame: Frame) -> None:
    with pytest.raises(ProviderError, match="without a name"):
        decoder_of(name).feed(frame)


def test_halves_of_a_character_in_two_frames_are_joined() -> None:
    frames = [chunk('{"content":"fox \\ud83e"}'), chunk('{"content":"\\udd8a!"}')]
    assert read(decoder_of("openai"), frames).text == "fox 🦊!"


def test_half_a_character_alone_does_not_break_the_stream() -> None:
    frames = [chunk('{"content":"a\\udd8ab\\ud83e"}'), chunk('{"content":"c"}')]
    text = read(decoder_of("openai"), frames).text
    assert text == "a\ufffdbc"
    assert text.encode()


def test_signs_of_life_are_no_part_of_an_answer() -> None:
    for name in ("ping", "heartbeat", "keep-alive"):
        assert decoder_of("openai").feed(Frame(name=name, data=b"[]")) == []


def test_the_stop_string_that_vllm_names_is_reported_if_it_is_one_of_ours() -> None:
    sent = encoded("openai", ask(stop=("END",)), server="vllm")
    for told, stop in (('"END"', "END"), ('"other"', None), ("151645", None), ("null", None)):
        decoder = dialect_for("openai", server="vllm").decoder(sent)
        data = f'{{"choices":[{{"delta":{{}},"finish_reason":"stop","stop_reason":{told}}}]}}'
        decoder.feed(Frame(data=data.encode()))
        assert decoder.end().stop == stop


def test_an_echo_of_the_prefilled_turn_is_stripped() -> None:
    sent = encoded("openai", ask(PARTIAL), server="mistral", prefill=True)
    whole = "Good day to \nall of you"
    for n_chars in (1, 5, len(whole)):
        decoder = dialect_for("openai", server="mistral").decoder(sent)
        pieces = [whole[i : i + n_chars] for i in range(0, len(whole), n_chars)]
        escaped = [piece.replace("\n", "\\n") for piece in pieces]
        frames = [chunk(f'{{"content":"{piece}"}}') for piece in escaped]
        assert read(decoder, frames).text == "all of you"


def test_an_answer_that_only_begins_like_the_prefilled_turn_is_whole() -> None:
    sent = encoded("openai", ask(PARTIAL), server="mistral", prefill=True)
    decoder = dialect_for("openai", server="mistral").decoder(sent)
    assert read(decoder, [chunk('{"content":"Good"}'), chunk("{}", "stop")]).text == "Good"


def test_space_that_was_cut_from_a_prefilled_turn_is_not_repeated() -> None:
    sent = encoded("anthropic", ask(PARTIAL), prefill=True)
    decoder = dialect_for("anthropic").decoder(sent)
    frames = named(
        'content_block_delta {"type":"content_block_delta","delta":{"text":" "}}',
        'content_block_delta {"type":"content_block_delta","delta":{"text":"\\n\\nall"}}',
    )
    assert read(decoder, frames).text == "\nall"
