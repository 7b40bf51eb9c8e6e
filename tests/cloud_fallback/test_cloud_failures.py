"""What goes wrong with a provider is told apart; no part of an answer is taken for the whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from spillover.cloud_fallback import errors
from spillover.cloud_fallback.errors import ProviderError
from spillover.cloud_fallback.http.client import Http
from tests.answers import end_of, text_of
from tests.cloud_fallback.cloud_answers import MakeEngine, answer, every_dialect, failure
from tests.cloud_fallback.providers import engine_for
from tests.fakes.fake import Fake
from tests.fakes.script import Act, Tokens

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
def test_a_refusal_says_what_to_do(
    fake: Fake,
    make_engine: MakeEngine,
    dialect: str,
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
    fake: Fake, make_engine: MakeEngine, dialect: str, form: Any
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
    fake: Fake, make_engine: MakeEngine, dialect: str
) -> None:
    fake.script(Act(no_terminal=True))
    text, error = failure(make_engine(dialect))
    assert isinstance(error, errors.Truncated)
    assert text == "Hello from the cloud."


@every_dialect
@pytest.mark.parametrize("cut", ["fin", "reset"])
def test_a_broken_connection_is_the_network_s(
    fake: Fake, make_engine: MakeEngine, dialect: str, cut: Any
) -> None:
    fake.script(Act(cut_after_chunks=3, cut=cut))
    text, error = failure(make_engine(dialect))
    assert isinstance(error, errors.NetworkFailed)
    assert "Hello from the cloud.".startswith(text)


@every_dialect
def test_an_error_inside_the_stream_is_raised(
    fake: Fake, make_engine: MakeEngine, dialect: str
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
    fake: Fake, make_engine: MakeEngine, dialect: str
) -> None:
    fake.script(Act(malformed_after_chunks=2))
    text, _ = failure(make_engine(dialect))
    assert text == "Hello fr"


@every_dialect
def test_no_cut_at_any_byte_is_taken_for_an_answer(
    fake: Fake, make_engine: MakeEngine, dialect: str
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


def test_a_web_page_is_not_an_answer(fake: Fake, make_engine: MakeEngine) -> None:
    fake.script(Act(raw=("<html>",), headers={"content-type": "text/html"}))
    _, error = failure(make_engine())
    assert isinstance(error, errors.ProviderRefused)


def test_a_refused_connection_is_the_network_s(fake: Fake, make_engine: MakeEngine) -> None:
    fake.refuse_connections()
    _, error = failure(make_engine())
    assert isinstance(error, errors.NetworkFailed)
    assert "nothing listens there" in str(error)


def test_what_a_proxy_refuses_reached_nobody(fake: Fake, prepared: None) -> None:
    """What the proxy was told passed for the request, whose prompt was paid."""
    http = Http(proxy=fake.url)
    _, error = failure(engine_for(fake, http=http, base_url="https://cloud.invalid/v1"))
    http.close()
    assert isinstance(error, errors.NetworkFailed)
    assert [request.method for request in fake.requests] == ["CONNECT"]
    assert not error.may_bill


@pytest.mark.parametrize("cut", ["fin", "reset"])
def test_a_connection_that_ends_before_the_response_is_the_network_s(
    fake: Fake, make_engine: MakeEngine, cut: Any
) -> None:
    fake.script(Act(before_response=cut))
    _, error = failure(make_engine())
    assert isinstance(error, errors.NetworkFailed)
    assert len(fake.requests) == 1


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


@pytest.mark.parametrize("told", ['"usage":{"prompt_tokens":-1}', '"error":{"code":"late"}'])
def test_what_comes_after_the_end_does_not_undo_it(
    fake: Fake, make_engine: MakeEngine, told: str
) -> None:
    """Another writer went on with an answer that was whole."""
    fake.script(Act(raw=(*WHOLE, f"data: {{{told}}}\n\n")))
    events = answer(make_engine())
    assert text_of(events) == "Hello."
    assert (end_of(events).reason, end_of(events).usage.estimated) == ("stop", True)


def test_reasoning_that_was_counted_is_paid_where_we_end_the_answer(
    fake: Fake, make_engine: MakeEngine
) -> None:
    counts = '{"promptTokenCount":11,"candidatesTokenCount":2,"thoughtsTokenCount":900}'
    candidate = '{"content":{"parts":[{"text":"Hello, END"}]}}'
    fake.script(Act(raw=(f'data: {{"candidates":[{candidate}],"usageMetadata":{counts}}}\n\n',)))
    stops = ("1.", "2.", "3.", "4.", "5.", "END")  # the sixth is ours to find
    usage = end_of(answer(make_engine("gemini"), stop=stops)).usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.reasoning_tokens) == (11, 902, 900)


@pytest.mark.parametrize("cut", ["fin", "reset"])
def test_a_broken_connection_before_the_end_is_not_a_stop(
    fake: Fake, make_engine: MakeEngine, cut: Any
) -> None:
    fake.script(Act(raw=WHOLE, cut=cut, cut_after_bytes=len(WHOLE[0])))
    text, error = failure(make_engine())
    assert text == "Hello."
    assert isinstance(error, errors.NetworkFailed)
