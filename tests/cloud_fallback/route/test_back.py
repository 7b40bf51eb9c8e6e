"""The cloud breaks: the next provider goes on, or the local model, in the same stream."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spillover.cloud_fallback.errors import ProviderError
from spillover.cloud_fallback.route.allowed import Routing
from spillover.cloud_fallback.route.settings import RouteOptions
from spillover.runtime.errors import InvalidRequest
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.request import Regex
from tests.answers import ask
from tests.cloud_fallback.route.conftest import MakeDesk
from tests.cloud_fallback.route.desk import (
    DIALECTS,
    Breaking,
    Desk,
    end,
    handoffs,
    joined,
    long,
    provider,
    seams,
    text,
)
from tests.fakes.fake import Fake
from tests.fakes.script import Act

PART = " Then a cloud came by, and it rained on all of them until"
REST = " the sun came out again. The end."


@pytest.mark.parametrize("name", DIALECTS)
def test_a_clean_end_without_the_terminal_event_is_truncation(
    make_desk: MakeDesk, make_fake: Callable[[], Fake], name: str
) -> None:
    """The official clients take it for complete. Here the local model goes on, with both texts."""
    fake = make_fake()
    base_url = f"{fake.url}/v1" if name == "openai" else fake.url
    desk = make_desk(providers=[provider(fake, base_url=base_url, **DIALECTS[name])])
    fake.script(Act(rest=PART, no_terminal=True))
    events = desk.ask(long(), hand_over_at=60)
    there, back = handoffs(events)
    said = text(events[: events.index(there)])
    with_cloud = text(events[: events.index(back)])
    assert with_cloud == joined(said, PART)
    assert (back.source.origin, back.target.origin) == ("cloud", "local")
    assert text(events).startswith(with_cloud)
    assert len(text(events)) > len(with_cloud)
    assert end(events).reason in ("stop", "length")
    assert [leg.writer.origin for leg in end(events).usage.legs] == ["local", "cloud", "local"]
    assert end(events).usage.legs[1].estimated
    assert seams(events)[-1].kind in ("prefill", "exact")


@pytest.mark.parametrize(
    "act",
    [
        Act(rest=PART, cut_after_chunks=5, cut="reset"),
        Act(rest=PART, cut_after_chunks=5, cut="fin"),
        Act(rest=PART, cut_after_bytes=900, cut="fin"),
        Act(rest=PART, error_after_chunks=5),
        Act(rest=PART, malformed_after_chunks=5),
        Act(refusal="rate_limited", retry_form="seconds", retry_after_s=60),
        Act(refusal="rate_limited", retry_form="date", retry_after_s=60),
        Act(refusal="auth"),
        Act(refusal="billing"),
        Act(refusal="overloaded"),
        Act(refusal="context"),
        Act(refusal="content_policy"),
        Act(before_response="reset"),
        Act(redirect_to="http://127.0.0.1:1/"),
        Act(status=200, body="<html>a login page</html>"),
    ],
    ids=repr,
)
def test_whatever_the_provider_does_the_answer_comes_to_its_end(
    desk: Desk, fake: Fake, act: Act
) -> None:
    fake.script(act)
    events = desk.ask(long(), hand_over_at=60)
    there = handoffs(events)[0]
    said = text(events[: events.index(there)])
    assert text(events).startswith(said)
    assert len(text(events)) > len(said)
    assert end(events).reason in ("stop", "length")
    assert handoffs(events)[-1].target.origin == "local"
    assert events[-1] == end(events)


def test_the_next_provider_continues_where_the_first_one_broke(
    make_desk: MakeDesk, make_fake: Callable[[], Fake]
) -> None:
    first, second = make_fake(), make_fake()
    desk = make_desk(first, second)
    first.script(Act(rest=PART, no_terminal=True))
    second.script(Act(rest=REST))
    events = desk.ask(long(), hand_over_at=60)
    one, two = handoffs(events)
    said = text(events[: events.index(one)])
    assert text(events) == joined(said, PART, REST)
    assert (one.target.provider, two.target.provider) == ("fake-1", "fake-2")
    assert two.reason == "provider"
    assert end(events).reason == "stop"


def test_what_a_content_policy_stopped_is_not_sent_to_another_provider(
    make_desk: MakeDesk, make_fake: Callable[[], Fake]
) -> None:
    first, second = make_fake(), make_fake()
    desk = make_desk(first, second)
    first.script(Act(refusal="content_policy"))
    events = desk.ask(long(), hand_over_at=60)
    assert end(events).reason in ("stop", "length")
    assert second.requests == []


def test_what_a_content_policy_stopped_stays_here_when_the_local_model_breaks_later(
    engine: LocalEngine, tmp_path: Path, fake: Fake
) -> None:
    """It was asked of all providers again."""
    breaking: Any = Breaking(engine)
    desk = Desk(breaking, tmp_path, [provider(fake)])
    fake.script(Act(refusal="content_policy"), Act(rest=REST))
    events = desk.ask(long(), hand_over_at=60)
    desk.close()
    assert end(events).reason == "interrupted"
    assert len(fake.requests) == 1


def test_a_short_wait_is_waited_for(desk: Desk, fake: Fake) -> None:
    fake.script(Act(refusal="rate_limited", retry_form="ms", retry_after_s=0.05), Act(rest=REST))
    events = desk.ask(long(), hand_over_at=60)
    (handoff,) = handoffs(events)
    assert text(events) == joined(text(events[: events.index(handoff)]), REST)
    assert len(fake.requests) == 2


def test_a_model_that_takes_no_prefill_is_asked_in_the_users_voice(
    make_desk: MakeDesk, fake: Fake
) -> None:
    claude = provider(
        fake, base_url=fake.url, dialect="anthropic", model="claude-haiku-4-5-20251001"
    )
    desk = make_desk(providers=[claude])
    fake.script(Act(rest=REST, takes_prefill=False))
    for _ in range(2):
        events = desk.ask(long(), hand_over_at=60)
        (handoff,) = handoffs(events)
        assert text(events) == joined(text(events[: events.index(handoff)]), REST)
    assert len(fake.requests) == 3  # learned once


def test_cloud_only_without_an_answer_is_an_error_before_the_first_word(
    desk: Desk, fake: Fake
) -> None:
    fake.script(Act(refusal="auth"))
    options = RouteOptions(routing=Routing(only="cloud_only"))
    with pytest.raises(ProviderError):
        desk.ask(ask(), options)


@pytest.mark.parametrize("reasoning", ["", "Nothing comes to my mind."])
def test_an_empty_answer_is_none(
    make_desk: MakeDesk, make_fake: Callable[[], Fake], reasoning: str
) -> None:
    """An answer that was cut in mid-sentence was called complete when the provider said nothing."""
    first, second = make_fake(), make_fake()
    desk = make_desk(first, second)
    first.script(Act(manner="nothing", text="", reasoning=reasoning))
    second.script(Act(rest=REST))
    events = desk.ask(long(), hand_over_at=60)
    assert [h.target.provider for h in handoffs(events)] == ["fake-1", "fake-2"]
    assert text(events) == joined(text(events[: events.index(handoffs(events)[0])]), REST)


def test_an_answer_that_was_complete_already_is_not_written_on(desk: Desk, fake: Fake) -> None:
    """The provider repeats the last words, as it was asked to, and has nothing to add."""
    fake.script(Act(rest=""))
    events = desk.ask(long(), hand_over_at=60)
    assert [h.target.provider for h in handoffs(events)] == ["fake-1"]
    assert end(events).reason == "stop"


def test_who_is_left_out_is_named_with_the_reason(desk: Desk, fake: Fake) -> None:
    """It used to be "no cloud provider can be asked", from the second answer on."""
    fake.script(Act(refusal="auth"))
    options = RouteOptions(routing=Routing(only="cloud_only"))
    with pytest.raises(ProviderError, match="key"):
        desk.ask(ask(), options)
    with pytest.raises(ProviderError, match=r"fake-1: it is not asked .* refused the key"):
        desk.ask(ask(), options)
    assert len(fake.requests) == 1


def test_cloud_only_that_breaks_off_ends_as_interrupted(desk: Desk, fake: Fake) -> None:
    fake.script(Act(text=PART, no_terminal=True))
    options = RouteOptions(routing=Routing(only="cloud_only"))
    events = desk.ask(ask(), options)
    assert text(events) == PART
    assert end(events).reason == "interrupted"


def test_several_choices_stay_here(desk: Desk, fake: Fake) -> None:
    events = desk.ask(ask(n=2, max_tokens=5))
    assert not handoffs(events)
    assert fake.requests == []
    with pytest.raises(InvalidRequest, match="n = 1"):
        desk.ask(ask(n=2), RouteOptions(routing=Routing(only="cloud_only")))


def test_requests_that_no_provider_can_serve_are_answered_locally_without_asking_one(
    make_desk: MakeDesk, fake: Fake
) -> None:
    """A regular expression is no form that a provider knows."""
    desk = make_desk(fake)
    events = desk.ask(long(response_format=Regex(pattern="[a-z ]{1,200}")), hand_over_at=20)
    assert not handoffs(events)
    assert end(events).reason in ("stop", "length")
    assert fake.record.accepted == 0


def test_a_provider_without_a_key_is_passed_over(
    make_desk: MakeDesk, make_fake: Callable[[], Fake]
) -> None:
    keyless, other = make_fake(), make_fake()
    desk = make_desk(
        providers=[
            provider(keyless, "keyless", key_variable="NO_SUCH_KEY"),
            provider(other, "other"),
        ]
    )
    other.script(Act(rest=REST))
    events = desk.ask(long(), hand_over_at=60)
    assert [h.target.provider for h in handoffs(events)] == ["other"]
    assert keyless.record.accepted == 0


def test_a_defect_in_our_own_code_does_not_cost_the_answer(
    desk: Desk, fake: Fake, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    words = "words of the answer"

    def broken(*_: object) -> None:
        raise KeyError(words)

    fake.script(Act(rest=REST))
    monkeypatch.setattr(
        "spillover.cloud_fallback.route.provider_stream.ProviderStream._take", broken
    )
    events = desk.ask(long(), hand_over_at=60)
    assert [h.target.origin for h in handoffs(events)] == ["cloud", "local"]
    assert "KeyError" in caplog.text
    assert words not in caplog.text
