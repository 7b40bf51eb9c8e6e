"""A clock that a test advances, and its alarms."""

from __future__ import annotations

from collections.abc import Callable

from spillover.runtime.alarms import Alarm, Alarms


class Clockwork(Alarms):
    """Alarms without a thread: go_on() makes the calls that are due, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0
        self._due: list[tuple[float, Alarm]] = []

    def at(self, when: float, callback: Callable[[], object]) -> Alarm:
        alarm = Alarm(self, callback)
        self._due.append((when, alarm))
        return alarm

    def forget(self, alarm: Alarm) -> None:
        alarm.callback = None

    @property
    def n_waiting(self) -> int:
        return sum(alarm.callback is not None for _, alarm in self._due)

    def go_on(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            ringing = [pair for pair in self._due if pair[0] <= end]
            if not ringing:
                break
            pair = min(ringing, key=lambda pair: pair[0])
            self._due.remove(pair)
            when, alarm = pair
            self.now = max(self.now, when)
            callback, alarm.callback = alarm.callback, None
            if callback is not None:
                callback()
        self.now = end
