"""All resumable answers: who follows each, and when it is cancelled or forgotten."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

from spillover.edge_server.resume import cursor
from spillover.edge_server.resume.lifetime import Lifetime, ResumeLimits
from spillover.edge_server.resume.recording import Recording
from spillover.edge_server.resume.stream_log import MemoryLog, StreamLog
from spillover.edge_server.resume.viewer import Viewer
from spillover.edge_server.wire.dialect import StreamEncoder
from spillover.edge_server.wire.errors import WireError, bad_request
from spillover.runtime.alarms import Alarm, Alarms
from spillover.runtime.errors import EngineBusy

RETRY_AFTER_S = 5.0


class _Entry:
    def __init__(self, recording: Recording, lifetime: Lifetime) -> None:
        self.recording = recording
        self.lifetime = lifetime
        self.alarm: Alarm | None = None


class Streams:
    """For any thread. Nothing blocks: each answer that has ended or has no followers has one
    alarm."""

    def __init__(
        self,
        limits: ResumeLimits,
        *,
        clock: Callable[[], float] = time.monotonic,
        alarms: Alarms | None = None,
        make_log: Callable[[ResumeLimits], StreamLog] = lambda limits: MemoryLog(limits.log_bytes),
    ) -> None:
        self._limits = limits
        self._clock = clock
        self._alarms = alarms or Alarms(clock)
        self._make_log = make_log
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}

    def open(
        self, owner: str, encoder: StreamEncoder, *, background_id: str | None = None
    ) -> Recording:
        """A place for a new answer, which has no followers yet; the oldest ended one makes room.
        One with a *background_id* needs none, and is found by it.

        Raises EngineBusy when running answers take all places.
        """
        limits = self._limits
        if not limits.max_streams:
            raise bad_request("this server has no resumable streams (max_resumable = 0)")
        log = self._make_log(limits)
        recording = Recording(owner, encoder, log, self._ended, background_id)
        lifetime = Lifetime(background=background_id is not None)
        with self._lock:
            if len(self._entries) >= limits.max_streams and not self._make_room():
                message = f"{limits.max_streams} resumable answers are running: try again later"
                raise EngineBusy(message, RETRY_AFTER_S)
            self._entries[recording.id] = _Entry(recording, lifetime)
        return recording

    def _make_room(self) -> bool:
        """Forget the answer that ended first; False if none has ended. The lock is held."""
        ended = [
            (entry.lifetime.ended_at, stream_id)
            for stream_id, entry in self._entries.items()
            if entry.lifetime.ended_at is not None
        ]
        if ended:
            self._forget(min(ended)[1])
        return bool(ended)

    def discard(self, recording: Recording) -> None:
        """Forget an answer that no client will ask for."""
        with self._lock:
            self._forget(recording.id)

    def find(self, stream_id: str, owner: str) -> Recording:
        """The answer of *owner* with this id.

        Raises the same WireError for an id that never existed, is forgotten, or is another owner's.
        """
        with self._lock:
            entry = self._entries.get(stream_id)
            is_kept = entry and entry.lifetime.fate(self._limits, self._clock()) != "forget"
            if entry is None or not is_kept or entry.recording.owner != owner:
                raise WireError(404, "there is no stream with this id (or it has expired)", "id")
            return entry.recording

    def watch(self, recording: Recording, after: int, *, is_first: bool = False) -> Viewer:
        """A reader of *recording* after event number *after*. *is_first*: its client has just asked
        for the answer, and does not know the stream's id yet.

        Raises WireError for a cursor outside the log.
        """
        cursor.check(after, first=recording.log.first, last=recording.log.last)
        with self._lock:
            self._change(recording.id, Lifetime.joined)
        on_leave = partial(self._left, recording)
        return Viewer(recording, after, on_leave, knows_id=not is_first)

    def _left(self, recording: Recording, knows_id: bool) -> None:
        now = self._clock()
        with self._lock:
            lifetime = self._change(recording.id, lambda lifetime: lifetime.left(now))
            is_lost = (
                not knows_id
                and lifetime is not None
                and not lifetime.n_viewers
                and not lifetime.background
            )
            if is_lost:
                self._forget(recording.id)
        if is_lost:
            recording.stop("its client left before it knew the stream's id")

    def _ended(self, recording: Recording) -> None:
        """In the writer's thread."""
        now = self._clock()
        with self._lock:
            self._change(recording.id, lambda lifetime: lifetime.ended(now))

    def _change(self, stream_id: str, change: Callable[[Lifetime], Lifetime]) -> Lifetime | None:
        """Note what happened, and set an alarm for the next change. The lock is held."""
        entry = self._entries.get(stream_id)
        if entry is None:
            return None
        entry.lifetime = change(entry.lifetime)
        if entry.alarm is not None:
            entry.alarm.cancel()
        due = entry.lifetime.due(self._limits)
        entry.alarm = None if due is None else self._alarms.at(due, lambda: self._look(stream_id))
        return entry.lifetime

    def _look(self, stream_id: str) -> None:
        with self._lock:
            entry = self._entries.get(stream_id)
            if entry is None:
                return
            fate = entry.lifetime.fate(self._limits, self._clock())
            if fate == "forget":
                self._forget(stream_id)
        if fate == "cancel":
            entry.recording.stop(f"no client came back to it within {self._limits.grace_s:g} s")

    def _forget(self, stream_id: str) -> None:
        """The lock is held."""
        entry = self._entries.pop(stream_id, None)
        if entry is not None and entry.alarm is not None:
            entry.alarm.cancel()

    def __len__(self) -> int:
        return len(self._entries)

    def close(self) -> None:
        """Forget all; running answers are cancelled by their owner."""
        self._alarms.close()
        with self._lock:
            self._entries.clear()
