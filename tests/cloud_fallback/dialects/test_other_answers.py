"""What Cohere, Bedrock and generate_stream do in their streams."""

from __future__ import annotations

import pytest

from spillover.cloud_fallback.errors import Overloaded, ProviderError
from spillover.cloud_fallback.http.frame import Frame
from spillover.runtime.events import Delta
from spillover.runtime.request import GenerationRequest
from tests.cloud_fallback.dialects.conversations import ask, dialect_for, encoded
from tests.cloud_fallback.dialects.recorded import decoder_of, named, read


@pytest.mark.parametrize("told", ["ERROR", "TIMEOUT"])
def test_coheres_message_end_may_tell_of_a_failure(told: str) -> None:
    data = f'{{"type":"message-end","delta":{{"finish_reason":"{told}","error":"secret"}}}}'
    with pytest.raises(Overloaded) as error:
        decoder_of("cohere").feed(Frame(data=data.encode()))
    assert "secret" not in str(error.value)


def test_bedrocks_usage_may_be_lost() -> None:
    decoder = decoder_of("bedrock")
    read(decoder, named('messageStop {"stopReason":"end_turn"}'))
    assert not decoder.is_done
    assert decoder.end().usage is None


@pytest.mark.parametrize("told", ["malformed_model_output", "malformed_tool_use"])
def test_bedrocks_failures_are_not_a_stop(told: str) -> None:
    decoder = decoder_of("bedrock")
    read(decoder, named(f'messageStop {{"stopReason":"{told}"}}'))
    with pytest.raises(ProviderError):
        decoder.end()


def token(text: str, finish: str | None = None, *, special: bool = False) -> Frame:
    details = f'"generated_text":"…","details":{{"finish_reason":"{finish}"}}' if finish else ""
    fields = f'"token":{{"id":1,"text":"{text}","special":{str(special).lower()}}}'
    return Frame(data=f"{{{fields}{',' if details else ''}{details}}}".encode())


def test_generate_streams_transcript_ends_before_the_user_speaks() -> None:
    sent = encoded("tgi", ask(stop=("END",)))
    decoder = dialect_for("tgi").decoder(sent)
    frames = [token(" Good"), token(" day\\nUs"), token("er"), token(":", "stop_sequence")]
    assert read(decoder, frames).text == "Good day"
    assert (decoder.end().reason, decoder.end().stop) == ("stop", None)


def test_generate_streams_stop_string_is_cut_off_and_reported() -> None:
    sent = encoded("tgi", ask(stop=("END",)))
    decoder = dialect_for("tgi").decoder(sent)
    assert read(decoder, [token(" Good E"), token("ND", "stop_sequence")]).text == "Good "
    assert decoder.end().stop == "END"


def test_what_looked_like_a_stop_string_is_text_at_the_end() -> None:
    sent = encoded("tgi", ask(stop=("END",)))
    decoder = dialect_for("tgi").decoder(sent)
    assert read(decoder, [token("Good E"), token("N", "length")]).text == "Good EN"
    assert decoder.end().reason == "length"


def test_a_raw_prompts_answer_keeps_its_first_space() -> None:
    sent = encoded("tgi", GenerationRequest(prompt="Once upon"))
    decoder = dialect_for("tgi").decoder(sent)
    assert decoder.feed(token(" a time\\nUser: x")) == [Delta(text=" a time\nUser: x")]
