"""However the cloud goes on, the joined answer is one text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from spillover.cloud_fallback.events import HandoffMode, Replace
from spillover.cloud_fallback.providers.settings import ProviderSettings
from spillover.cloud_fallback.route.settings import RouteOptions
from tests.answers import REST, ask
from tests.cloud_fallback.route.conftest import MakeDesk
from tests.cloud_fallback.route.desk import (
    CALM,
    DIALECTS,
    OUT_OF_MEMORY,
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


@pytest.mark.parametrize("cut_at", [25, 60, 61, 62, 63, 130])
@pytest.mark.parametrize(
    ("manner", "kinds"),
    [
        ("anchor", {"anchor"}),
        ("whitespace", {"anchor"}),
        ("quoted", {"anchor"}),
        ("fenced", {"anchor"}),
        ("capitals", {"anchor"}),
        ("misspelt", {"anchor"}),
        ("preamble", {"anchor"}),
        ("restart", {"restart", "anchor"}),  # a short text is an anchor as a whole
        ("no_anchor", {"unverified", "overlap"}),
    ],
)
def test_the_joined_text_is_the_text_of_both_writers(
    desk: Desk, fake: Fake, manner: str, kinds: set[str], cut_at: int
) -> None:
    fake.script(Act(rest=REST, manner=manner))  # type: ignore[arg-type]  # a Literal
    events = desk.ask(long(), hand_over_at=cut_at)
    (handoff,) = handoffs(events)
    said = text(events[: events.index(handoff)])
    if manner == "no_anchor":
        assert text(events).split() == (said + REST).split()
    else:
        assert text(events).rstrip("\n") == joined(said, REST)
    assert seams(events)[0].kind in kinds
    assert not any(isinstance(event, Replace) for event in events)


PREFILLING: dict[str, dict[str, Any]] = {
    "vllm": {"dialect": "openai", "server": "vllm"},
    "anthropic": {"dialect": "anthropic", "model": "claude-haiku-4-5"},
    "gemini": {"dialect": "gemini", "model": "gemini-2.5-flash"},
    "bedrock": {"dialect": "bedrock", "model": "anthropic.claude-haiku-4-5-20251001-v1:0"},
}
"""Providers that are known to continue an assistant's turn."""


def served_by(fake: Fake, fields: dict[str, Any]) -> ProviderSettings:
    base_url = f"{fake.url}/v1" if fields["dialect"] == "openai" else fake.url
    return provider(fake, base_url=base_url, **fields)


@pytest.mark.parametrize("name", PREFILLING)
def test_a_server_that_ignores_the_prefill_says_nothing_twice(
    make_desk: MakeDesk, make_fake: Callable[[], Fake], name: str
) -> None:
    """The beginning used to come twice. From then on the provider is asked for an echo."""
    fake = make_fake()
    desk = make_desk(providers=[served_by(fake, PREFILLING[name])])
    for cut_at in (25, 60):
        fake.script(Act(rest=REST, ignores_prefill=True))
        events = desk.ask(long(), hand_over_at=cut_at)
        (handoff,) = handoffs(events)
        assert text(events) == joined(text(events[: events.index(handoff)]), REST)
    first, second = (request.body for request in fake.requests)
    assert "My connection dropped" not in first
    assert "My connection dropped" in second


@pytest.mark.parametrize(
    "said",
    [
        {"tagged_reasoning": "<think>\nRepeat the fragment first.\n</think>\n\n"},
        {"preamble": "Natürlich, ich mache genau dort weiter:\n\n", "manner": "preamble"},
        {"preamble": "बिल्कुल, मैं वहीं से जारी रखता हूँ:\n\n", "manner": "preamble"},
        {"preamble": "I apologize for the interruption! Continuing:\n\n", "manner": "preamble"},
        {"manner": "misspelt"},
    ],
    ids=lambda said: next(iter(said.values())).split()[0],
)
@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_continues(
    make_desk: MakeDesk, make_fake: Callable[[], Fake], name: str, said: dict[str, Any]
) -> None:
    fake = make_fake()
    desk = make_desk(providers=[served_by(fake, DIALECTS[name])])
    fake.script(Act(rest=REST, **said))
    events = desk.ask(long(), hand_over_at=60)
    (handoff,) = handoffs(events)
    assert text(events) == joined(text(events[: events.index(handoff)]), REST)
    assert end(events).reason == "stop"
    (seam,) = seams(events)
    assert seam.kind == "anchor"


def test_a_rewritten_answer_replaces_what_was_said_where_the_client_understands_that(
    desk: Desk, fake: Fake
) -> None:
    fake.script(Act(text="Quite another tale, told from its beginning. The end."))
    options = RouteOptions(mode="restart", may_replace=True)
    events = desk.ask(long(), options, hand_over_at=60)
    assert text(events) == "Quite another tale, told from its beginning. The end."
    assert any(event == Replace(keep_chars=0) for event in events)


def test_an_answer_written_anew_has_all_its_tokens(desk: Desk, fake: Fake) -> None:
    """What was taken back does not count against max_tokens."""
    fake.script(Act(text="Quite another tale."))
    options = RouteOptions(mode="restart", may_replace=True)
    events = desk.ask(ask(max_tokens=100), options, hand_over_at=200)
    assert text(events) == "Quite another tale."
    assert fake.requests[0].json()["max_tokens"] == 100


@pytest.mark.parametrize("mode", ["finish_sentence", "at_turn"])
def test_before_the_first_word_nothing_is_waited_for(
    make_desk: MakeDesk, fake: Fake, mode: HandoffMode
) -> None:
    """No sentence is there to be finished, and it is a turn already."""
    policy = msgspec.structs.replace(CALM, first_token_s=0.001)
    desk = make_desk(fake, policy=policy)
    fake.script(Act(text="A tale of the cloud's."))
    request = ask(f"{mode}: " + "Ruby the fox saw a bird. " * 100, max_tokens=40)
    events = desk.ask(request, RouteOptions(mode=mode))
    assert [handoff.reason for handoff in handoffs(events)] == ["ttft"]
    assert text(events) == "A tale of the cloud's."


def test_the_sentence_is_finished_first(make_desk: MakeDesk, fake: Fake) -> None:
    # A story that is not let end repeats itself sooner or later.
    switched_off = (*CALM.switched_off, "repetition")
    desk = make_desk(fake, policy=msgspec.structs.replace(CALM, switched_off=switched_off))
    fake.script(Act(rest=REST))
    options = RouteOptions(mode="finish_sentence")
    _answer_id, stream = desk.start(long(), options)
    events = []
    for event in stream:
        events.append(event)
        if len(text(events)) >= 60 and not handoffs(events):
            desk.reading = OUT_OF_MEMORY
    (handoff,) = handoffs(events)
    said = text(events[: events.index(handoff)])
    assert handoff.reason == "memory"
    assert said.endswith((".", "!", "?", '"'))
    assert text(events) == joined(said, REST)
