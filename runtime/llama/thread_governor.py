"""Decides how many threads to compute with while other programs use the machine.

llama.cpp's threads wait for each other after every operation, some hundred times a token, and spin
while they wait. If another program has one of their cores, each such wait lasts until the scheduler
gives it back: two threads on two cores, one of them used by a busier program, took a hundred times
as long as one thread alone. The ratio of CPU time to wall time in a call shows it at once.
"""

from __future__ import annotations

from typing import Protocol

from spillover.runtime.machine.device import SLACK_CORES, FreeCores

WINDOW_S = 0.05
"""A decision is based on this much computing time."""

FIRST_WAIT_S = 0.2
"""Computing time between dropping a thread and trying one more, while a core looks idle."""

BLIND_WAIT_S = 5.0
"""The same while no core looks idle: others may yield what they use."""

MOST_PATIENCE = 8
"""Both grow by up to this factor while attempts fail."""

COSTLY_TRY = 20
"""After a failed attempt, at least this many times its duration passes before the next one."""

NEWS_S = 1.0
"""A judgement after a pause covers at most this much computing time before the pause."""


class Cores(FreeCores, Protocol):
    """The cores that this process may use. Both answers are for the time since the last one."""

    def idle(self) -> float:
        """How many did nothing, or only what must give way to us."""
        ...


class ThreadGovernor:
    """Takes each call's wall and CPU time, and returns how many threads the next call gets."""

    def __init__(self, n_most: int, cores: Cores) -> None:
        self.n_threads = n_most
        self._n_most = n_most
        self._cores = cores
        self._unasked_s = 0.0
        self._wall_s = self._cpu_s = 0.0
        self._waited_s = 0.0
        self._blind_s = 0.0
        self._patience = 1
        self._least_wait_s = 0.0
        self._is_trying = False
        self._is_suspicious = False

    @property
    def has_all(self) -> bool:
        """Whether no other program was seen to need a core of ours."""
        return self.n_threads == self._n_most

    def limit(self, n_most: int, n_first: int) -> None:
        """Compute with at most *n_most* threads, beginning with *n_first*."""
        self._n_most = n_most
        self._set(n_first, is_trying=False)

    def observe(self, wall_s: float, cpu_s: float) -> int:
        """Note a call of *wall_s* that took *cpu_s* over all threads; return the next call's
        threads."""
        self._wall_s += wall_s
        self._cpu_s += cpu_s
        if self._wall_s >= WINDOW_S:
            self._judge(self._wall_s, self._cpu_s / self._wall_s)
            self._wall_s = self._cpu_s = 0.0
        return self.n_threads

    def rest(self) -> int:
        """Nothing was computed for a while, or ever: begin with the threads that found a core
        meanwhile. One too many can hold up a call a hundredfold, and a call is not interrupted."""
        n_free = min(max(int(self._cores.free() + SLACK_CORES), 1), self._n_most)
        if n_free != self.n_threads:
            self._set(n_free, is_trying=n_free > self.n_threads)
        return self.n_threads

    def _judge(self, wall_s: float, n_cores: float) -> None:
        self._unasked_s += wall_s
        if self._unasked_s >= NEWS_S and self.n_threads == self._n_most:
            self._unasked_s = 0.0
            self._cores.free()  # counts from now on
        n_fitting = max(int(n_cores + SLACK_CORES), 1)
        n_missing = self.n_threads - n_cores
        # A little missing now and then is noise; much, or repeatedly, is another program. A try is
        # not given the benefit of the doubt: its calls may take seconds.
        was_suspicious, self._is_suspicious = self._is_suspicious, n_missing > SLACK_CORES
        is_doubtful = not was_suspicious and n_missing < 2 * SLACK_CORES
        if self._is_suspicious and is_doubtful and not self._is_trying:
            return
        if n_fitting < self.n_threads:
            self._patience = min(2 * self._patience, MOST_PATIENCE) if self._is_trying else 1
            self._least_wait_s = COSTLY_TRY * wall_s if self._is_trying else 0.0
            self._set(n_fitting, is_trying=False)
        elif self._is_trying:
            self._patience = 1
            self._set(self.n_threads, is_trying=False)
        elif self.n_threads < self._n_most:
            self._wait(wall_s)

    def _wait(self, wall_s: float) -> None:
        self._waited_s += wall_s
        self._blind_s += wall_s
        if self._blind_s < self._least_wait_s:
            return
        if self._blind_s >= self._patience * BLIND_WAIT_S:
            self._set(self.n_threads + 1, is_trying=True)
        elif self._waited_s >= self._patience * FIRST_WAIT_S:
            self._waited_s = 0.0
            if self._cores.idle() >= 1 - SLACK_CORES:
                self._set(self.n_threads + 1, is_trying=True)

    def _set(self, n_threads: int, *, is_trying: bool) -> None:
        self.n_threads = n_threads
        self._is_trying = is_trying
        self._waited_s = self._blind_s = 0.0
        if n_threads < self._n_most:
            self._cores.idle()  # counts from now on
