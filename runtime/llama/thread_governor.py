"""How many threads to compute with, beside the other programs of the machine.

llama.cpp's threads wait for each other after every operation, some hundred times a token, and spin
while they wait. If another program has one of their cores, each such wait lasts until the scheduler
gives it back: two threads on two cores, one of them taken by a busier program, were seen to need
a hundred times as long as one thread alone. What shows it at once is the CPU time that a call got
in its wall time.
"""

from __future__ import annotations

from collections.abc import Callable

WINDOW_S = 0.05
"""A decision is based on this much computing time."""

SLACK_CORES = 0.35
"""So much of a core may be missing before there is a thread less."""

FIRST_WAIT_S = 0.2
"""Computing between having given a thread up and trying one more, where a core looks idle."""

BLIND_WAIT_S = 5.0
"""The same where none does: what others take may be ours for the asking."""

MOST_PATIENCE = 8
"""Both grow by up to this factor while tries fail."""


class ThreadGovernor:
    """Fed with each call's wall and CPU time, says how many threads the next one should have.
    *idle_cores* tells how many cores did nothing since it was last asked."""

    def __init__(self, n_most: int, idle_cores: Callable[[], float]) -> None:
        self.n_threads = n_most
        self._n_most = n_most
        self._idle_cores = idle_cores
        self._wall_s = self._cpu_s = 0.0
        self._waited_s = 0.0
        self._blind_s = 0.0
        self._patience = 1
        self._is_trying = False
        self._is_suspicious = False

    def observe(self, wall_s: float, cpu_s: float) -> int:
        """A call took *wall_s* and *cpu_s* seconds of all threads; how many the next one gets."""
        self._wall_s += wall_s
        self._cpu_s += cpu_s
        if self._wall_s >= WINDOW_S:
            self._judge(self._wall_s, self._cpu_s / self._wall_s)
            self._wall_s = self._cpu_s = 0.0
        return self.n_threads

    def rest(self) -> int:
        """Nothing was computed for a while: cores that were idle meanwhile are used at once."""
        if self.n_threads < self._n_most:
            n_free = min(int(self._idle_cores() + SLACK_CORES), self._n_most)
            if n_free > self.n_threads:
                self._set(n_free, is_trying=True)
        return self.n_threads

    def _judge(self, wall_s: float, n_cores: float) -> None:
        n_fitting = max(int(n_cores + SLACK_CORES), 1)
        n_missing = self.n_threads - n_cores
        # A little is missing now and then; much, or again, is another program's doing.
        was_suspicious, self._is_suspicious = self._is_suspicious, n_missing > SLACK_CORES
        if self._is_suspicious and not was_suspicious and n_missing < 2 * SLACK_CORES:
            return
        if n_fitting < self.n_threads:
            self._patience = min(2 * self._patience, MOST_PATIENCE) if self._is_trying else 1
            self._set(n_fitting, is_trying=False)
        elif self._is_trying:
            self._patience = 1
            self._set(self.n_threads, is_trying=False)
        elif self.n_threads < self._n_most:
            self._wait(wall_s)

    def _wait(self, wall_s: float) -> None:
        self._waited_s += wall_s
        self._blind_s += wall_s
        if self._blind_s >= self._patience * BLIND_WAIT_S:
            self._set(self.n_threads + 1, is_trying=True)
        elif self._waited_s >= self._patience * FIRST_WAIT_S:
            self._waited_s = 0.0
            if self._idle_cores() >= 1 - SLACK_CORES:
                self._set(self.n_threads + 1, is_trying=True)

    def _set(self, n_threads: int, *, is_trying: bool) -> None:
        self.n_threads = n_threads
        self._is_trying = is_trying
        self._waited_s = self._blind_s = 0.0
        if n_threads < self._n_most:
            self._idle_cores()  # counts from now on
