"""Runs calls of llama.cpp with as many threads as find a core."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TypeVar

from spillover.runtime.llama.thread_governor import ThreadGovernor
from spillover.runtime.machine.device import OurCores

PAUSE_S = 0.5
"""After this long without a call, the load of the machine is measured again."""

T = TypeVar("T")


class GovernedCalls:
    """*adapts*: on a CPU, and asked for. Otherwise all calls have *n_threads*."""

    def __init__(self, n_threads: int, *, adapts: bool) -> None:
        self.n_threads = n_threads
        self._governor = _new_governor(n_threads) if adapts else None
        self._ended = float("-inf")

    def run(self, call: Callable[[], T], set_threads: Callable[[int], None]) -> T:
        """The result of *call*, for which *set_threads* is told when their number changes."""
        if self._governor is None:
            return call()
        started, used_s = time.perf_counter(), time.process_time()
        if started - self._ended > PAUSE_S:
            self._use(self._governor.rest(), set_threads)
        result = call()
        self._ended = time.perf_counter()
        cpu_s = time.process_time() - used_s
        self._use(self._governor.observe(self._ended - started, cpu_s), set_threads)
        return result

    def _use(self, n_threads: int, set_threads: Callable[[int], None]) -> None:
        if n_threads != self.n_threads:
            self.n_threads = n_threads
            set_threads(n_threads)


def _new_governor(n_threads: int) -> ThreadGovernor | None:
    """Where llama.cpp's waiting threads are known to spin; untested on macOS and Windows."""
    if n_threads < 2 or sys.platform != "linux":
        return None
    try:
        return ThreadGovernor(n_threads, OurCores())
    except OSError:  # Android does not show how busy its cores are
        return None
