"""max_tokens counts what the client got, whoever wrote it, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from spillover.cloud_fallback.events import StreamEvent
from spillover.cloud_fallback.policy.settings import PolicySettings
from spillover.cloud_fallback.route.settings import RouteOptions
from spillover.runtime.events import Delta, Leg, Prefilling
from spillover.runtime.local_engine import LocalEngine
from spillover.runtime.request import JsonSchema
from tests.cloud_fallback.route.conftest import MakeDesk
from tests.cloud_fallback.route.desk import (
    CALM,
    Breaking,
    Desk,
    end,
    handoffs,
    long,
    provider,
    text,
)
from tests.fakes.fake import Fake
from tests.fakes.script import Act

WORDS = "something quite different from the answer "
LIST = {"type": "array", "items": {"enum": ["fox", "hen"]}, "minItems": 300}


def legs_of(events: list[StreamEvent], origin: str) -> list[Leg]:
    return [leg for leg in end(events).usage.legs if leg.writer.origin == origin]


def n_tokens(events: list[StreamEvent]) -> int:
    return sum(len(event.token_ids) for event in events if isinstance(event, Delta))


def test_what_a_provider_thought_before_it_broke_leaves_the_answer_its_tokens(
    desk: Desk, fake: Fake
) -> None:
    """The answer used to end with "length" after the local model's few words."""
    fake.script(Act(manner="nothing", reasoning=WORDS * 60, no_terminal=True))
    events = desk.ask(long(max_tokens=200), hand_over_at=60)
    assert [handoff.target.origin for handoff in handoffs(events)] == ["cloud", "local"]
    (cloud,) = legs_of(events, "cloud")
    assert cloud.completion_tokens >= cloud.reasoning_tokens > 200
    assert sum(leg.completion_tokens for leg in legs_of(events, "local")) >= 200


def test_what_never_fitted_the_answer_leaves_it_its_tokens(desk: Desk, fake: Fake) -> None:
    """It is billed, and nobody has seen it."""
    fake.script(Act(chunks=(f'["{WORDS}", ' * 40,), no_terminal=True))
    request = long(max_tokens=200, response_format=JsonSchema(schema=LIST))
    events = desk.ask(request, hand_over_at=30)
    assert [handoff.target.origin for handoff in handoffs(events)] == ["cloud", "local"]
    (cloud,) = legs_of(events, "cloud")
    assert cloud.completion_tokens > 200
    assert sum(leg.completion_tokens for leg in legs_of(events, "local")) >= 200


def test_text_that_was_dropped_in_doubt_leaves_the_next_writer_its_tokens(
    make_desk: MakeDesk, fake: Fake
) -> None:
    doubtful = PolicySettings(p_wrong_hold=0.0, p_wrong_enter=0.0, p_wrong_forget=0.0)
    desk = make_desk(fake, policy=doubtful)
    fake.script(Act(text=" word" * 1000, rest=" word" * 1000))
    events = desk.ask(long(max_tokens=100))
    (handoff,) = handoffs(events)
    (local,) = legs_of(events, "local")
    n_shown = n_tokens(events[: events.index(handoff)])
    assert n_shown < local.completion_tokens
    assert text(events).count(" word") >= 100 - n_shown


@pytest.fixture
def breaking(engine: LocalEngine, fake: Fake, tmp_path: Path) -> Any:
    """A desk whose engine breaks in mid-answer."""
    local: Any = Breaking(engine)
    desk = Desk(local, tmp_path, [provider(fake)], policy=CALM)
    yield desk
    desk.close()


def test_what_the_local_model_wrote_before_it_broke_counts(breaking: Desk, fake: Fake) -> None:
    """The next writer was given all of max_tokens once more."""
    fake.script(Act(rest=" word" * 500))
    events = breaking.ask(long(max_tokens=100))
    (handoff,) = handoffs(events)
    (local,) = legs_of(events, "local")
    assert local.completion_tokens == n_tokens(events[: events.index(handoff)]) > 50
    assert local.prompt_tokens > 0
    assert text(events).count(" word") <= 100 - local.completion_tokens
    assert end(events).reason == "length"


def test_an_answer_that_nobody_finishes_counts_what_it_has(breaking: Desk, fake: Fake) -> None:
    fake.script(Act(refusal="auth"))
    events = breaking.ask(long())
    assert end(events).reason == "interrupted"
    assert end(events).usage.completion_tokens == n_tokens(events) > 50


def test_an_answer_that_goes_on_here_tells_its_tokens_to_the_end(desk: Desk, fake: Fake) -> None:
    """They used to end, with their log probabilities, where a handoff was tried in vain; its
    counts began anew, and the prompt was called cached where it was read."""
    fake.script(Act(refusal="auth"))
    request = long(max_tokens=150, logprobs=1, timings_per_token=True)
    request = msgspec.structs.replace(
        request, messages=(msgspec.structs.replace(request.messages[0], content="Ada the goose?"),)
    )
    events = desk.ask(request, RouteOptions(), hand_over_at=60)
    assert [handoff.target.origin for handoff in handoffs(events)] == ["cloud", "local"]
    after = [e for e in events[events.index(handoffs(events)[1]) :] if isinstance(e, Delta)]
    assert n_tokens([*after]) >= legs_of(events, "local")[1].completion_tokens - 2 > 0
    assert all(len(event.logprobs) == len(event.token_ids) for event in after)
    counted = [
        event.measures.usage.completion_tokens
        for event in events
        if isinstance(event, Delta) and event.measures
    ]
    assert counted == sorted(counted)
    assert counted[-1] >= 149
    first = next(event for event in events if isinstance(event, Prefilling))
    assert end(events).usage.cached_tokens == first.n_cached < end(events).usage.prompt_tokens
