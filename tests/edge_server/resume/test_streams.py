"""Resumable answers without a network."""

from __future__ import annotations

import logging

import pytest

from spillover.cloud_fallback.events import Failed, StreamEvent
from spillover.edge_server.resume.lifetime import ResumeLimits
from spillover.edge_server.resume.recording import Recording
from spillover.edge_server.resume.stream_log import CursorTooOld, MemoryLog
from spillover.edge_server.resume.streams import Streams
from spillover.edge_server.wire.errors import WireError
from spillover.edge_server.wire.openai.chat import ChatStream
from spillover.runtime.errors import EngineBusy
from spillover.runtime.events import Delta
from tests.edge_server.resume.answer import Answer, Client, encoder
from tests.edge_server.resume.clockwork import Clockwork

LIMITS = ResumeLimits(grace_s=60.0, keep_s=300.0, log_bytes=100_000, max_streams=2)


@pytest.fixture
def clock() -> Clockwork:
    return Clockwork()


@pytest.fixture
def streams(clock: Clockwork) -> Streams:
    return Streams(LIMITS, clock=lambda: clock.now, alarms=clock)


def begun(streams: Streams, answer: Answer) -> Recording:
    recording = streams.open("me", encoder())
    recording.begin(answer)
    return recording


def test_a_client_that_leaves_before_it_knows_the_id_ends_its_answer(streams: Streams) -> None:
    """Nobody could ever resume it."""
    answer = Answer()
    recording = begun(streams, answer)
    streams.watch(recording, 0, is_first=True).leave()
    assert answer.cancellation.cancelled
    with pytest.raises(WireError):
        streams.find(recording.id, "me")


def test_a_client_that_comes_back_and_leaves_before_the_head_keeps_its_answer(
    streams: Streams,
) -> None:
    """Two breaks of a connection while the answer waited to begin used to end it."""
    answer = Answer()
    recording = begun(streams, answer)
    first = streams.watch(recording, 0, is_first=True)
    first.open()
    first.leave()
    streams.watch(recording, 0).leave()
    assert not answer.cancellation.cancelled
    assert streams.find(recording.id, "me") is recording


def test_the_first_event_is_there_before_the_answer_has_any(streams: Streams) -> None:
    recording = begun(streams, Answer())
    assert recording.log.last == 1


def test_events_from_before_the_log_was_opened_are_in_it(streams: Streams) -> None:
    answer, client = Answer(), Client()
    answer.say("Once ")
    recording = begun(streams, answer)
    answer.say("upon")
    client.read(streams.watch(recording, 0))
    assert client.text == "Once upon"


def test_a_failure_is_the_last_event(streams: Streams) -> None:
    answer, client = Answer(), Client()
    recording = begun(streams, answer)
    answer.say("Once")
    answer.log.append(Failed(code="engine_error", message="the worker died too often"))
    answer.log.close()
    assert client.read(streams.watch(recording, 0))
    assert (client.text, client.end) == ("Once", "the worker died too often")


def test_an_event_that_cannot_be_written_ends_the_answer_and_the_log_says_so(
    streams: Streams, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_self: ChatStream, event: StreamEvent) -> bytes:
        assert isinstance(event, Delta)
        raise ValueError(event.text)

    answer, client = Answer(), Client()
    recording = begun(streams, answer)
    monkeypatch.setattr(ChatStream, "feed", fail)
    with caplog.at_level(logging.ERROR):
        answer.say("a secret")
    assert answer.cancellation.cancelled
    assert client.read(streams.watch(recording, 0))
    assert client.end == "internal error (ValueError)"
    assert "ValueError" in caplog.text
    assert "secret" not in caplog.text


def test_the_answer_that_ended_first_makes_room_for_a_new_one(
    streams: Streams, clock: Clockwork
) -> None:
    answers = [Answer(), Answer()]
    first, second = (begun(streams, answer) for answer in answers)
    with pytest.raises(EngineBusy):
        streams.open("me", encoder())
    answers[1].end()
    clock.go_on(1)
    answers[0].end()
    streams.open("me", encoder())
    assert streams.find(first.id, "me") is first
    with pytest.raises(WireError):
        streams.find(second.id, "me")


def test_a_reader_of_a_forgotten_stream_reads_it_to_its_end(
    streams: Streams, clock: Clockwork
) -> None:
    answer, client = Answer(), Client()
    recording = begun(streams, answer)
    viewer = streams.watch(recording, 0)
    answer.say("Once upon a time")
    answer.end()
    clock.go_on(301)
    with pytest.raises(WireError):
        streams.find(recording.id, "me")
    assert client.read(viewer)
    assert client.text == "Once upon a time"
    viewer.leave()
    assert clock.n_waiting == 0


def test_ids_are_128_random_bits(streams: Streams) -> None:
    ids = {Recording("me", encoder(), MemoryLog(1), lambda _: None).id for _ in range(100)}
    assert len(ids) == 100
    assert all(len(bytes.fromhex(one)) == 16 for one in ids)


def test_a_reader_holds_few_events_however_far_behind_it_is() -> None:
    log = MemoryLog(10**6)
    for number in range(1, 1001):
        assert log.append(b"%d" % number) == number
    log.close()
    assert log.read(0) == ([b"%d" % n for n in range(1, 257)], False)
    assert log.read(768) == ([b"%d" % n for n in range(769, 1001)], True)
    assert log.read(1000) == ([], True)


def test_an_event_larger_than_the_log_still_reaches_a_waiting_reader() -> None:
    log = MemoryLog(100)
    log.append(b"a")
    log.append(b"b" * 1000)
    assert log.read(1) == ([b"b" * 1000], False)
    with pytest.raises(CursorTooOld):
        log.read(0)


def test_waiting_ends_with_an_event_with_the_end_or_with_time() -> None:
    log = MemoryLog(100)
    assert not log.wait(0, 0.001)
    log.append(b"a")
    assert log.wait(0, 0.001)
    assert not log.wait(1, 0.001)
    log.close()
    assert log.wait(1, 0.001)
