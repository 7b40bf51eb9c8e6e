"""Asks a worker how it is, again and again, and says when it hangs."""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
import time
from collections.abc import Callable

import psutil

from spillover.runtime.worker import protocol
from spillover.runtime.worker.supervision.watchdog import N_LOOKS, Signs, Usage, Watchdog
from spillover.runtime.worker.supervision.worker_process import WorkerProcess

PING_ID = 0
"""Of the questions that are asked here."""


LEAST_SLEEP_S = 1.0
"""The clocks of a device that was awake differ by less."""

WORK_S = 5.0
"""Seconds between two calls of *on_work*, about: whatever a worker is given to show a sign of
life."""


def asleep_s() -> float:
    """Seconds that the device has slept since it was started; 0 where the system does not tell."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


class Heartbeat:
    """Of one worker. *on_hang* is called, once, when the worker has shown no sign of life for
    *timeout_s*, or computes without an end; *on_work* about every WORK_S while it has requests;
    *on_wake* after the device has slept, with the seconds."""

    def __init__(
        self,
        worker: WorkerProcess,
        timeout_s: float,
        has_work: Callable[[], bool],
        on_hang: Callable[[], None],
        on_work: Callable[[], None],
        on_wake: Callable[[float], None],
    ) -> None:
        self._worker = worker
        self._interval_s = timeout_s / N_LOOKS
        self._n_beats = math.ceil(self._interval_s / WORK_S)
        """For each look at the worker; others are for *on_work* alone."""
        self._has_work = has_work
        self._on_hang = on_hang
        self._on_work = on_work
        self._on_wake = on_wake
        self._watchdog = Watchdog(self._interval_s)
        self._loads = True
        self._answers = True
        self._n_steps = 0
        self._loop_has_work = False
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    @property
    def is_suspicious(self) -> bool:
        """Whether the worker may hang."""
        return self._watchdog.is_suspicious

    def start(self) -> None:
        """Raises RuntimeError when the system gives no thread."""
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def loaded(self) -> None:
        """The worker is ready: from now on it answers."""
        self._loads = False
        self._watchdog = Watchdog(self._interval_s)

    def heard(self, status: protocol.Status) -> None:
        """The worker has answered."""
        self._n_steps = status.n_steps
        waiting = status.n_queued or status.n_background
        self._loop_has_work = bool(waiting) or any(s.state != "idle" for s in status.slots)
        self._answers = True

    def _run(self) -> None:
        slept_s, begun = asleep_s(), time.monotonic()
        beat_s = self._interval_s / self._n_beats
        n_beats_for_work = max(round(WORK_S / beat_s), 1)
        self._ask()
        for n in itertools.count(1):
            if self._stopped.wait(beat_s):
                return
            before_s, slept_s = slept_s, asleep_s()
            if slept_s - before_s > LEAST_SLEEP_S:
                self._watchdog = Watchdog(self._interval_s)
                self._on_wake(slept_s - before_s)
            elif n % self._n_beats == 0 and self._hangs(time.monotonic() - begun):
                self._on_hang()
                return
            if n % self._n_beats == 0:
                self._ask()
                begun = time.monotonic()
            if n % n_beats_for_work == 0 and not self._loads and self._has_work():
                self._on_work()

    def _ask(self) -> None:
        if self._answers:
            self._answers = False
            self._worker.send(protocol.AskStatus(id=PING_ID))

    def _hangs(self, passed_s: float) -> bool:
        """Look at the worker, for the first time in *passed_s* seconds."""
        self._worker.look_at_oom_kills()
        if passed_s > 2 * self._interval_s:  # this process was stopped, too
            self._watchdog = Watchdog(self._interval_s)
            return False
        return self._watchdog.look(self._signs())

    def _signs(self) -> Signs:
        return Signs(
            answers=self._answers,
            has_work=self._has_work(),
            loop_has_work=self._loop_has_work,
            n_steps=self._n_steps,
            usage=usage_of(self._worker.pid, with_children=self._loads),
            loads=self._loads,
        )


def usage_of(pid: int, *, with_children: bool) -> Usage | None:
    """What a process has used; None if the system does not tell. *with_children*: a worker that
    loads may wait for a limited process."""
    try:
        process = psutil.Process(pid)
        cpu_s, n_read = _cpu_s(process), 0
        if with_children:
            cpu_s += sum(map(_cpu_s, process.children()))
        if hasattr(process, "io_counters"):  # not on macOS
            with contextlib.suppress(psutil.AccessDenied):
                n_read = process.io_counters().read_bytes
        return Usage(cpu_s, process.memory_info().rss, n_read)
    except (psutil.Error, OSError):  # OSError: no descriptor is left
        return None


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
