"""A running answer goes on in the cloud."""

from __future__ import annotations

from spillover.runtime.events import Delta, Finished
from tests.answers import ask
from tests.cloud_fallback.route.desk import Desk, end, handoffs, joined, long, seams, text
from tests.fakes.fake import Fake
from tests.fakes.script import Act

REST = " Then the cloud came and told the rest of it. The end."


def test_an_answer_without_trouble_stays_here(desk: Desk, fake: Fake) -> None:
    events = desk.ask(ask(max_tokens=40))
    assert end(events).reason == "length"
    assert not handoffs(events)
    assert end(events).usage.legs == ()
    assert fake.requests == []


def test_the_cloud_continues_from_what_was_already_said(desk: Desk, fake: Fake) -> None:
    fake.script(Act(rest=REST))
    events = desk.ask(long(), hand_over_at=60)
    (handoff,) = handoffs(events)
    (seam,) = seams(events)
    said = text(events[: events.index(handoff)])
    assert text(events) == joined(said, REST)
    assert seam.kind == "anchor"
    assert handoff.reason == "user"
    assert (handoff.source.origin, handoff.target.provider) == ("local", "fake-1")
    assert end(events).reason == "stop"
    local, cloud = end(events).usage.legs
    assert (local.writer.origin, cloud.writer.origin) == ("local", "cloud")
    assert local.completion_tokens > 0
    assert cloud.completion_tokens > 0
    assert events[-1] == end(events)
    assert sum(isinstance(e, Finished) for e in events) == 1
    assert all(e.text for e in events if isinstance(e, Delta))
