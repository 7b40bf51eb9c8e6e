"""A client that applies events by number gets the text, however its connections break."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from msgspec import Struct

from spillover.edge_server.resume.lifetime import ResumeLimits
from spillover.edge_server.resume.recording import Recording
from spillover.edge_server.resume.stream_log import CursorTooOld, MemoryLog
from spillover.edge_server.resume.streams import Streams
from spillover.edge_server.resume.viewer import Viewer
from spillover.edge_server.wire.errors import WireError
from tests.edge_server.resume.answer import Answer, Client, encoder
from tests.edge_server.resume.clockwork import Clockwork

LIMITS = ResumeLimits(grace_s=60.0, keep_s=300.0, log_bytes=2_000, max_streams=1)
"""The log holds about seven events."""


class Seat(Struct, eq=False):
    """A client, and its connection while it has one."""

    client: Client
    viewer: Viewer | None


class Streaming(RuleBasedStateMachine):
    """One answer, its log, its clients, and a clock."""

    @initialize()
    def begin(self) -> None:
        self.clock = Clockwork()
        self.streams = Streams(LIMITS, clock=lambda: self.clock.now, alarms=self.clock)
        self.answer = Answer()
        self.said: list[str] = []
        self.stopped = False
        self.ended_at: float | None = None
        self.alone_since: float | None = None
        self.recording: Recording = self.streams.open("me", encoder())
        self.seats = [Seat(Client(), self._connect(0))]
        self.recording.begin(self.answer)

    def _connect(self, after: int) -> Viewer:
        viewer = self.streams.watch(self.recording, after)
        viewer.open()
        self.alone_since = None
        return viewer

    def _note_end(self) -> None:
        if self.answer.is_over and self.ended_at is None:
            self.ended_at = self.clock.now

    @property
    def is_kept(self) -> bool:
        return self.ended_at is None or self.clock.now < self.ended_at + LIMITS.keep_s

    @precondition(lambda self: not self.answer.is_over)
    @rule(texts=st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=6))
    def emit(self, texts: list[str]) -> None:
        for text in texts:
            self.answer.say(text)
            self.said.append(text.encode("utf-8", "replace").decode())

    @precondition(lambda self: not self.answer.is_over)
    @rule()
    def finish(self) -> None:
        self.answer.end()
        self._note_end()

    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        seats = [seat for seat in self.seats if seat.viewer is not None]
        if not seats:
            return
        seat = data.draw(st.sampled_from(seats))
        assert seat.viewer is not None
        seat.viewer.leave()
        seat.viewer = None
        if len(seats) == 1:
            self.alone_since = self.clock.now

    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        seats = [seat for seat in self.seats if seat.viewer is not None]
        if not seats:
            return
        seat = data.draw(st.sampled_from(seats))
        assert seat.viewer is not None
        try:
            ended = seat.client.read(seat.viewer)
        except CursorTooOld:
            assert seat.client.last < self.recording.log.first - 1
            return
        assert ended == self.answer.is_over
        self._check(seat.client)

    def _check(self, client: Client) -> None:
        """The client read to the end, so it has everything."""
        assert client.last == self.recording.log.last
        assert client.text == "".join(self.said)
        if self.answer.is_over:
            assert client.end is not None

    @precondition(lambda self: self.is_kept)
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        """From its last event or any number: what is read twice is applied once."""
        log = self.recording.log
        seat = data.draw(st.sampled_from(self.seats))
        after = data.draw(st.just(seat.client.last) | st.integers(0, log.last + 2))
        assert self.streams.find(self.recording.id, "me") is self.recording
        if not log.first - 1 <= after <= log.last:
            with pytest.raises(WireError) as refused:
                self._connect(after)
            assert refused.value.status == (400 if after > log.last else 410)
            return
        viewer = self._connect(after)
        if after > seat.client.last:
            viewer.leave()  # it would miss something, and knows
            if all(seat.viewer is None for seat in self.seats):
                self.alone_since = self.clock.now
            return
        if seat.viewer is not None:
            seat.viewer.leave()  # the old connection turned out to be dead
        seat.viewer = viewer

    @precondition(lambda self: self.is_kept and len(self.seats) < 4)
    @rule()
    def another_viewer(self) -> None:
        if self.recording.log.first == 1:
            self.seats.append(Seat(Client(), self._connect(0)))

    @rule()
    def stop(self) -> None:
        self.stopped |= not self.answer.is_over
        self.recording.stop("enough")
        self._note_end()

    @rule(seconds=st.sampled_from([1.0, 30.0, 61.0, 301.0]))
    def wait(self, seconds: float) -> None:
        gives_up_at = None if self.alone_since is None else self.alone_since + LIMITS.grace_s
        was_over = self.answer.is_over
        self.clock.go_on(seconds)
        is_given_up = gives_up_at is not None and gives_up_at <= self.clock.now
        assert self.answer.is_over == (was_over or is_given_up)
        if not was_over and is_given_up:
            self.ended_at = gives_up_at

    @rule(owner=st.sampled_from(["me", "you", ""]))
    def look_for_it(self, owner: str) -> None:
        if owner == "me" and self.is_kept:
            assert self.streams.find(self.recording.id, owner) is self.recording
            return
        with pytest.raises(WireError) as refused:
            self.streams.find(self.recording.id, owner)
        assert refused.value.status == 404

    @invariant()
    def memory_is_bounded(self) -> None:
        log = self.recording.log
        assert isinstance(log, MemoryLog)
        assert log.n_bytes <= LIMITS.log_bytes
        assert len(self.streams) <= 1
        assert self.clock.n_waiting <= 1

    @invariant()
    def the_last_event_says_how_it_ended(self) -> None:
        log = self.recording.log
        assert log.closed == self.answer.is_over
        if not log.closed:
            return
        (last,), ended = log.read(log.last - 1)
        assert ended
        assert last == b"data: [DONE]\n\n" or b'"code": "cancelled"' in last
        if self.stopped:
            assert b"enough" in last


TestStreaming = Streaming.TestCase
TestStreaming.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
