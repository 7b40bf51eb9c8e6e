"""A cloud provider is an engine: real processes that speak every dialect, on the loopback."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from spillover.cloud_fallback import errors
from spillover.cloud_fallback.cloud_engine import CloudEngine
from spillover.cloud_fallback.dialects.registry import DialectName
from spillover.cloud_fallback.errors import ProviderError
from spillover.cloud_fallback.http.client import Http
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.errors import EngineClosed, InvalidRequest
from spillover.runtime.events import (
    Delta,
    EngineEvent,
    Finished,
    ReasoningDelta,
    ToolCallDelta,
    Writer,
)
from spillover.runtime.request import GenerationRequest, Message, Tool
from tests.answers import ask, end_of, text_of
from tests.cloud_fallback.providers import DIALECTS, engine_for
from tests.fakes.fake import Fake
from tests.fakes.script import Act, Tokens, ToolCall

TEXT = 'Ünïcödé, 👩‍👩‍👧 "quotes" \\ and\r\nlines\u2028too.\n\n```py\nprint(1)\n```\n'
PARTIAL = "Once upon a time there was a"

every_dialect = pytest.mark.parametrize("dialect", DIALECTS)
with_tools = pytest.mark.parametrize("dialect", [d for d in DIALECTS if d != "tgi"])

MakeEngine = Callable[..., CloudEngine]


@pytest.fixture
def make_engine(fake: Fake, http: Http) -> MakeEngine:
    """Makes an engine for the fake."""

    def make(dialect: DialectName = "openai", **fields: Any) -> CloudEngine:
        return engine_for(fake, dialect, http=http, **fields)

    return make


def answer(engine: CloudEngine, **fields: Any) -> list[EngineEvent]:
    return list(engine.stream(ask(**fields)))


def failure(engine: CloudEngine, **fields: Any) -> tuple[str, ProviderError]:
    """The text that came, and what ended it."""
    events: list[EngineEvent] = []
    with pytest.raises(ProviderError) as caught:
        events.extend(engine.stream(ask(**fields)))  # keeps what came before the error
    return text_of(events), caught.value


# An answer.


@every_dialect
def test_an_answer_comes_whole_with_its_usage(
    fake: Fake, make_engine: MakeEngine, dialect: DialectName
) -> None:
    fake.script(Act(text=TEXT, chunk_chars=3, usage=Tokens(prompt=21, completion=9)))
    events = answer(make_engine(dialect))
    assert text_of(events) == TEXT
    end = end_of(events)
    assert (end.reason, end.stop) == ("stop", None)
    usage = (end.usage.prompt_tokens, end.usage.completion_tokens, end.usage.estimated)
    assert usage == (21, 9, False)
    assert isinstance(events[-1], Finished)
    assert end.usage.legs == ()


@with_tools
def test_thoughts_and_tool_calls_are_kept_apart(
    fake: Fake, make_engine: MakeEngine, dialect: DialectName
) -> None:
    call = ToolCall(id="call12345", name="weather", arguments='{"city": "Oslo"}')
    script = Act(text="Look.", reasoning="Hm.", tool_calls=(call,), finish="tool_calls")
    fake.script(script)
    tool = Tool(name="weather", parameters={"type": "object", "properties": {}})
    events = answer(make_engine(dialect), tools=(tool,))
    assert text_of(events) == "Look."
    assert "".join(e.text for e in events if isinstance(e, ReasoningDelta)) == "Hm."
    calls = [e for e in events if isinstance(e, ToolCallDelta)]
    assert calls[0].name == "weather"
    joined = "".join(call.arguments for call in calls)
    assert joined.replace(" ", "") == '{"city":"Oslo"}'
    assert end_of(events).reason == "tool_calls"


@every_dialect
def test_one_byte_at_a_time_is_the_same_answer(
    fake: Fake, make_engine: MakeEngine, dialect: DialectName
) -> None:
    fake.script(Act(text=TEXT, chunk_chars=9, write_bytes=1))
    assert text_of(answer(make_engine(dialect))) == TEXT


@every_dialect
def test_the_limit_of_tokens_ends_an_answer(
    fake: Fake, make_engine: MakeEngine, dialect: DialectName
) -> None:
    fake.script(Act(text="a story that goes on and on"))
    events = answer(make_engine(dialect), max_tokens=3)
    assert (text_of(events), end_of(events).reason) == ("a story that", "length")


@every_dialect
def test_a_stop_string_ends_an_answer(
    fake: Fake, make_engine: MakeEngine, dialect: DialectName
) -> None:
    fake.script(Act(text="one, two. three"))
    events = answer(make_engine(dialect), stop=("two",))
    assert (text_of(events), end_of(events).reason) == ("one, ", "stop")


def test_stop_strings_that_the_provider_does_not_take_are_found_here(
    fake: Fake, make_engine: MakeEngine
) -> None:
    fake.script(Act(text="one, two. three, four", chunk_chars=2, hold_after_chunks=9))
    stops = ("no", "non", "none", "nono", ". th")
    events = answer(make_engine(), stop=stops)
    asked = fake.requests[0].json()["stop"]
    assert ". th" not in asked
    end = end_of(events)
    assert (text_of(events), end.reason, end.stop) == ("one, two", "stop", ". th")
    assert end.usage.estimated
    assert fake.wait_for(open=0).requests[0].ended == "client_closed"


def test_a_provider_without_usage_gets_an_estimate(fake: Fake, make_engine: MakeEngine) -> None:
    fake.script(Act(text="x" * 30, usage=None))
    usage = end_of(answer(make_engine())).usage
    assert (usage.completion_tokens, usage.estimated) == (10, True)
    assert usage.prompt_tokens > 10


@pytest.mark.parametrize(
    ("dialect", "server"),
    [
        ("openai", "vllm"),
        ("anthropic", None),
        ("gemini", None),
        ("vertex", None),
        ("huggingface", None),
        ("tgi", None),
        ("bedrock", None),
    ],
)
def test_a_prefilled_turn_is_gone_on_with(
    fake: Fake, make_engine: MakeEngine, dialect: DialectName, server: Any
) -> None:
    engine = make_engine(dialect, server=server)
    assert engine.may_prefill()
    fake.script(Act(text=f"{PARTIAL} fox."))
    turns = (Message(role="user", content="A story."), Message(role="assistant", content=PARTIAL))
    request = GenerationRequest(messages=turns, continue_final_message=True)
    assert text_of(engine.stream(request)) == " fox."


def test_the_writer_is_named(make_engine: MakeEngine) -> None:
    engine = make_engine("anthropic", name="work")
    assert engine.name == "work"
    expected = Writer(origin="cloud", model="claude-haiku-4-5", provider="work")
    assert engine.writer == expected


def test_several_choices_are_refused_before_anything_is_sent(
    fake: Fake, make_engine: MakeEngine
) -> None:
    with pytest.raises(InvalidRequest, match="one answer at a time"):
        answer(make_engine(), n=2)
    assert fake.record.accepted == 0


def test_nothing_is_sent_before_the_first_event_is_asked_for(
    fake: Fake, make_engine: MakeEngine
) -> None:
    stream = make_engine().stream(ask())
    stream.close()
    assert fake.record.accepted == 0


# What goes wrong.

REFUSALS: list[tuple[str, type[ProviderError]]] = [
    ("rate_limited", errors.RateLimited),
    ("auth", errors.AuthFailed),
    ("permission", errors.AuthFailed),
    ("billing", errors.BillingFailed),
    ("context", errors.ContextExceeded),
    ("bad_request", errors.ProviderRefused),
    ("not_found", errors.ProviderRefused),
    ("server_error", errors.Overloaded),
    ("unavailable", errors.Overloaded),
    ("overloaded", errors.Overloaded),
]
OWN_WAYS: dict[tuple[str, str], type[ProviderError]] = {
    ("tgi", "overloaded"): errors.NotNow,  # with the status of a rate limit
    ("bedrock", "billing"): errors.AuthFailed,  # an AccessDeniedException
}


@every_dialect
@pytest.mark.parametrize(("refusal", "error"), REFUSALS, ids=[name for name, _ in REFUSALS])
def test_a_refusal_says_what_is_to_be_done(
    fake: Fake,
    make_engine: MakeEngine,
    dialect: DialectName,
    refusal: Any,
    error: type[ProviderError],
) -> None:
    fake.script(Act(refusal=refusal))
    _, found = failure(make_engine(dialect))
    assert isinstance(found, OWN_WAYS.get((dialect, refusal), error)), repr(found)
    assert found.provider == dialect


@pytest.mark.parametrize("form", ["seconds", "date", "ms"])
@every_dialect
def test_the_delay_is_read_from_every_header(
    fake: Fake, make_engine: MakeEngine, dialect: DialectName, form: Any
) -> None:
    fake.script(Act(refusal="rate_limited", retry_form=form, retry_after_s=7))
    _, error = failure(make_engine(dialect))
    assert isinstance(error, errors.RateLimited)
    assert error.retry_after_s is not None
    assert 6 <= error.retry_after_s <= 7


def test_the_delay_is_read_from_gemini_s_body(fake: Fake, make_engine: MakeEngine) -> None:
    fake.script(Act(refusal="rate_limited", retry_form="retry_info", retry_after_s=37))
    _, error = failure(make_engine("gemini"))
    assert isinstance(error, errors.RateLimited)
    assert error.retry_after_s == 37


@every_dialect
def test_a_clean_end_without_the_terminal_event_is_truncated(
    fake: Fake, make_engine: MakeEngine, dialect: DialectName
) -> None:
    fake.script(Act(no_terminal=True))
    text, error = failure(make_engine(dialect))
    assert isinstance(error, errors.Truncated)
    assert text == "Hello from the cloud."


@every_dialect
@pytest.mark.parametrize("cut", ["fin", "reset"])
def test_a_broken_connection_is_the_network_s(
    fake: Fake, make_engine: MakeEngine, dialect: DialectName, cut: Any
) -> None:
    fake.script(Act(cut_after_chunks=3, cut=cut))
    text, error = failure(make_engine(dialect))
    assert isinstance(error, errors.NetworkFailed)
    assert "Hello from the cloud.".startswith(text)


@every_dialect
def test_an_error_inside_the_stream_is_raised(
    fake: Fake, make_engine: MakeEngine, dialect: DialectName
) -> None:
    fake.script(Act(error_after_chunks=2, error_kind="overloaded"))
    text, error = failure(make_engine(dialect))
    assert text == "Hello fr"
    assert isinstance(error, errors.Overloaded) or dialect == "cohere", repr(error)


def test_an_error_as_a_raw_tail_is_raised(fake: Fake, make_engine: MakeEngine) -> None:
    fake.script(Act(error_after_chunks=2, error_form="raw_tail"))
    text, error = failure(make_engine("gemini"))
    assert (text, type(error)) == ("Hello fr", errors.Overloaded)


@every_dialect
def test_a_malformed_event_is_the_provider_s_failure(
    fake: Fake, make_engine: MakeEngine, dialect: DialectName
) -> None:
    fake.script(Act(malformed_after_chunks=2))
    text, _ = failure(make_engine(dialect))
    assert text == "Hello fr"


@every_dialect
def test_no_cut_at_any_byte_is_taken_for_an_answer(
    fake: Fake, make_engine: MakeEngine, dialect: DialectName
) -> None:
    engine = make_engine(dialect)
    fake.script(Act(text="Hi.", usage=Tokens()))
    answer(engine)
    n_bytes = fake.requests[-1].bytes_sent
    for n in range(0, n_bytes, 97):
        fake.script(Act(text="Hi.", usage=Tokens(), cut_after_bytes=n, cut="clean"))
        try:
            events = answer(engine)
        except ProviderError:
            continue
        assert text_of(events) == "Hi.", f"cut after {n} of {n_bytes} bytes"


def test_a_redirect_is_not_followed(
    fake: Fake, make_fake: Callable[[], Fake], make_engine: MakeEngine
) -> None:
    other = make_fake()
    fake.script(Act(redirect_to=f"{other.url}/v1/chat/completions"))
    _, error = failure(make_engine())
    assert isinstance(error, errors.ProviderRefused)
    assert "base_url" in str(error)
    assert other.record.accepted == 0


def test_a_web_page_is_no_answer(fake: Fake, make_engine: MakeEngine) -> None:
    fake.script(Act(raw=("<html>",), headers={"content-type": "text/html"}))
    _, error = failure(make_engine())
    assert isinstance(error, errors.ProviderRefused)


def test_a_refused_connection_is_the_network_s(fake: Fake, make_engine: MakeEngine) -> None:
    fake.refuse_connections()
    _, error = failure(make_engine())
    assert isinstance(error, errors.NetworkFailed)
    assert "nothing listens there" in str(error)


@pytest.mark.parametrize("cut", ["fin", "reset"])
def test_a_connection_that_ends_before_the_response_is_the_network_s(
    fake: Fake, make_engine: MakeEngine, cut: Any
) -> None:
    fake.script(Act(before_response=cut))
    _, error = failure(make_engine())
    assert isinstance(error, errors.NetworkFailed)
    assert len(fake.requests) == 1


# Time.


@pytest.mark.parametrize(
    "act",
    [
        Act(before_response="silence"),
        Act(cut_after_chunks=0, cut="silence"),
        Act(write_bytes=1, byte_delay_s=0.05),
    ],
    ids=["no response", "no text", "slow-loris"],
)
def test_a_provider_that_does_not_begin_is_given_up(
    fake: Fake, make_engine: MakeEngine, act: Act
) -> None:
    fake.script(act)
    _, error = failure(make_engine(first_text_timeout_s=0.3))
    assert isinstance(error, errors.Overloaded)
    assert "no text in 0.3 s" in str(error)
    assert fake.wait_for(open=0).requests[0].ended == "client_closed"


def test_a_provider_that_falls_silent_is_given_up(fake: Fake, make_engine: MakeEngine) -> None:
    fake.script(Act(cut_after_chunks=2, cut="silence"))
    text, error = failure(make_engine(idle_timeout_s=1.0))
    assert (text, type(error)) == ("Hello fr", errors.NetworkFailed)
    assert fake.wait_for(open=0).requests[0].ended == "client_closed"


def test_bytes_that_never_complete_an_event_are_no_life(
    fake: Fake, make_engine: MakeEngine
) -> None:
    event = 'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'
    fake.script(Act(raw=(event, *"data: and so on"), byte_delay_s=0.15))
    text, error = failure(make_engine(idle_timeout_s=1.0))
    assert (text, type(error)) == ("Hi", errors.NetworkFailed)


def test_bursts_within_the_idle_time_are_well(fake: Fake, make_engine: MakeEngine) -> None:
    fake.script(Act(text=TEXT, chunk_chars=9, burst_chunks=3, burst_pause_s=0.2))
    events = answer(make_engine("azure", idle_timeout_s=3.0))
    assert text_of(events) == TEXT


def test_an_answer_without_end_is_cut(fake: Fake, make_engine: MakeEngine) -> None:
    fake.script(Act(text="x" * 4000, delay_s=0.02))
    text, error = failure(make_engine(total_timeout_s=1.0))
    assert isinstance(error, errors.Truncated)
    assert text


def test_an_answer_without_bounds_is_cut(
    fake: Fake, make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spillover.cloud_fallback.cloud_stream.MAX_ANSWER_BYTES", 10_000)
    fake.script(Act(text="x" * 4000))
    text, error = failure(make_engine())
    assert "10000 bytes" in str(error)
    assert len(text) < 4000


# Cancelling.


@pytest.mark.parametrize(
    "act",
    [Act(hold_before_response=True), Act(hold_after_chunks=0), Act(hold_after_chunks=2)],
    ids=["before the response", "before the text", "within the text"],
)
def test_cancelling_ends_a_blocked_read_and_the_connection(
    fake: Fake, make_engine: MakeEngine, act: Act
) -> None:
    fake.script(act)
    cancellation = Cancellation()
    events: list[EngineEvent] = []
    reader = threading.Thread(
        target=lambda: events.extend(make_engine().stream(ask(), cancellation))
    )
    reader.start()
    fake.wait_for(holding=1)
    cancellation.cancel()
    reader.join(10)
    assert not reader.is_alive()
    assert end_of(events).reason == "cancelled"
    assert "Hello fr".startswith(text_of(events))
    assert fake.wait_for(open=0).requests[0].ended == "client_closed"


def test_a_cancelled_request_is_never_sent(fake: Fake, make_engine: MakeEngine) -> None:
    cancellation = Cancellation()
    cancellation.cancel()
    events = list(make_engine().stream(ask(), cancellation))
    assert [type(event) for event in events] == [Finished]
    assert fake.record.accepted == 0


def test_leaving_an_answer_closes_its_connection(fake: Fake, make_engine: MakeEngine) -> None:
    fake.script(Act(hold_after_chunks=2))
    stream = make_engine().stream(ask())
    assert isinstance(next(stream), Delta)
    stream.close()
    assert fake.wait_for(open=0).requests[0].ended == "client_closed"


def test_cancelling_after_the_end_harms_no_other_answer(
    fake: Fake, make_engine: MakeEngine
) -> None:
    """The connection of the first answer carries the second one."""
    engine, cancellation = make_engine(), Cancellation()
    list(engine.stream(ask(), cancellation))
    fake.script(Act(hold_after_chunks=2))
    second = engine.stream(ask())
    next(second)
    cancellation.cancel()
    fake.release()
    assert text_of(second) == "o from the cloud."
    assert fake.record.accepted == 1


def test_closing_the_connections_ends_answers_under_way(
    fake: Fake, make_engine: MakeEngine, http: Http
) -> None:
    fake.script(Act(hold_after_chunks=1))
    stream = make_engine().stream(ask())
    next(stream)
    http.close()
    with pytest.raises(EngineClosed):
        next(stream)


# Connections.


def test_a_warm_connection_carries_the_first_request(fake: Fake, make_engine: MakeEngine) -> None:
    engine = make_engine()
    engine.warm()
    assert (fake.record.accepted, fake.requests) == (1, [])
    answer(engine)
    assert fake.record.accepted == 1


@every_dialect
def test_a_connection_is_kept_for_the_next_request(
    fake: Fake, make_engine: MakeEngine, dialect: DialectName
) -> None:
    engine = make_engine(dialect)
    for _ in range(3):
        answer(engine)
    assert (fake.record.accepted, len(fake.requests)) == (1, 3)


def test_a_connection_is_kept_after_a_refusal(fake: Fake, make_engine: MakeEngine) -> None:
    engine = make_engine()
    fake.script(Act(refusal="rate_limited"), Act())
    failure(engine)
    answer(engine)
    assert fake.record.accepted == 1


def test_warming_twice_opens_one_connection(fake: Fake, make_engine: MakeEngine) -> None:
    engine = make_engine()
    engine.warm()
    engine.warm()
    answer(engine)
    engine.warm()
    assert fake.record.accepted == 1


def test_a_connection_that_died_meanwhile_is_replaced(fake: Fake, make_engine: MakeEngine) -> None:
    engine = make_engine()
    engine.warm()
    answer(engine)
    fake.close_idle()
    fake.wait_for(open=0)
    assert text_of(answer(engine)) == "Hello from the cloud."
    engine.warm()
    fake.close_idle()
    fake.wait_for(open=0)
    assert text_of(answer(engine)) == "Hello from the cloud."


def test_a_connection_that_dies_under_a_request_is_replaced_once_unheard(
    fake: Fake, make_engine: MakeEngine
) -> None:
    """A server may close an idle connection just when the request is on its way."""
    engine = make_engine()
    answer(engine)
    fake.script(Act(before_response="reset"), Act())
    assert text_of(answer(engine)) == "Hello from the cloud."
    assert (fake.record.accepted, len(fake.requests)) == (2, 3)


def test_warming_an_address_where_nobody_listens_is_silent(
    fake: Fake, make_engine: MakeEngine
) -> None:
    fake.refuse_connections()
    make_engine().warm()


def test_twenty_answers_at_once_come_whole(fake: Fake, make_engine: MakeEngine) -> None:
    fake.script(Act(text=TEXT, chunk_chars=3))
    engine = make_engine()
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(text_of(engine.stream(ask()))))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == [TEXT] * 20


def test_answers_leave_no_socket_and_no_thread_behind(
    fake: Fake, make_engine: MakeEngine, http: Http
) -> None:
    engine = make_engine(total_timeout_s=20)
    answer(engine)
    n_threads, n_files = threading.active_count(), psutil.Process().num_fds()
    for act in (Act(refusal="overloaded"), Act(cut_after_chunks=1, cut="reset"), Act()):
        fake.script(act)
        for _ in range(10):
            with contextlib.suppress(ProviderError):
                next(stream := engine.stream(ask()))
                stream.close()
    fake.wait_for(open=0)
    answer(engine)
    assert threading.active_count() == n_threads
    assert psutil.Process().num_fds() == n_files


# What is learned.


def test_a_refused_prefill_is_remembered(fake: Fake, make_engine: MakeEngine) -> None:
    engine = make_engine("anthropic")
    assert engine.may_prefill()
    fake.script(Act(takes_prefill=False))
    turns = (Message(role="user", content="A story."), Message(role="assistant", content=PARTIAL))
    request = GenerationRequest(messages=turns, continue_final_message=True)
    with pytest.raises(errors.ProviderRefused) as caught:
        list(engine.stream(request))
    assert caught.value.no_prefill
    assert not engine.may_prefill()
    assert len(fake.requests) == 1


def test_a_field_that_the_model_does_not_take_is_left_out(
    fake: Fake, make_engine: MakeEngine
) -> None:
    told = (
        '{"error": {"message": "Unsupported value: \'temperature\' does not support 0 with this '
        'model.", "type": "invalid_request_error", "param": "temperature", '
        '"code": "unsupported_value"}}'
    )
    fake.script(Act(status=400, body=told), Act())
    engine = make_engine()
    assert text_of(answer(engine)) == "Hello from the cloud."
    assert ["temperature" in r.json() for r in fake.requests] == [True, False]
    answer(engine)
    assert len(fake.requests) == 3


def test_a_field_that_is_refused_again_is_not_sent_for_ever(
    fake: Fake, make_engine: MakeEngine
) -> None:
    told = '{"error": {"param": "temperature", "code": "unsupported_value"}}'
    fake.script(Act(status=400, body=told))
    failure(make_engine())
    assert len(fake.requests) == 2


WHOLE = (
    'data: {"choices":[{"index":0,"delta":{"content":"Hello."},"finish_reason":null}]}\n\n',
    'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
)


@pytest.mark.parametrize("cut", ["fin", "reset", "silence"])
def test_a_whole_answer_is_not_lost_with_its_usage(
    fake: Fake, make_engine: MakeEngine, cut: Any
) -> None:
    fake.script(Act(raw=(*WHOLE, " " * 64), cut=cut, cut_after_bytes=len("".join(WHOLE))))
    events = answer(make_engine(idle_timeout_s=600))
    assert text_of(events) == "Hello."
    assert (end_of(events).reason, end_of(events).usage.estimated) == ("stop", True)


@pytest.mark.parametrize("cut", ["fin", "reset"])
def test_a_broken_connection_before_the_end_is_no_stop(
    fake: Fake, make_engine: MakeEngine, cut: Any
) -> None:
    fake.script(Act(raw=WHOLE, cut=cut, cut_after_bytes=len(WHOLE[0])))
    text, error = failure(make_engine())
    assert text == "Hello."
    assert isinstance(error, errors.NetworkFailed)
