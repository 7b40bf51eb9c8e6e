"""An answer that does not come, does not end, or is not wanted any more is ended in time."""

from __future__ import annotations

import threading

import pytest

from spillover.cloud_fallback import errors
from spillover.cloud_fallback.http.client import Http
from spillover.runtime.cancellation import Cancellation
from spillover.runtime.errors import EngineClosed
from spillover.runtime.events import Delta, EngineEvent, Finished
from tests.answers import ask, end_of, text_of
from tests.cloud_fallback.cloud_answers import TEXT, MakeEngine, answer, failure
from tests.fakes.fake import Fake
from tests.fakes.script import Act


@pytest.mark.parametrize(
    "act",
    [
        Act(before_response="silence"),
        Act(cut_after_chunks=0, cut="silence"),
        Act(write_bytes=1, byte_delay_s=0.05),
    ],
    ids=["no response", "no text", "slow-loris"],
)
def test_a_provider_that_does_not_begin_is_abandoned(
    fake: Fake, make_engine: MakeEngine, act: Act
) -> None:
    fake.script(act)
    _, error = failure(make_engine(first_text_timeout_s=0.3))
    assert isinstance(error, errors.Overloaded)
    assert "no text in 0.3 s" in str(error)
    assert fake.wait_for(open=0).requests[0].ended == "client_closed"


def test_a_provider_that_falls_silent_is_abandoned(fake: Fake, make_engine: MakeEngine) -> None:
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
    monkeypatch.setattr("spillover.cloud_fallback.providers.cloud_stream.MAX_ANSWER_BYTES", 10_000)
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
