"""Compiles grammars in a child process first: no call of llguidance can be interrupted, but a
process can be ended, and its time and memory can be limited."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Callable
from typing import TypeVar

from llguidance import LLMatcher, LLTokenizer

from spillover.runtime.errors import EngineBusy
from spillover.runtime.limited_process import LimitedProcess, LimitPassed, TooLate

CPU_S = 2.0
"""CPU time for one task."""
WALL_S = 8.0
"""A child that gets too little CPU time is given up after this, so that others have their turn
within constraint_compiler.MAX_WAIT_S."""
MEMORY_BYTES = 1 << 30
RETRY_AFTER_S = 5.0
NICENESS = 5
"""Answers that are running go first."""

A = TypeVar("A")
R = TypeVar("R")


class TrialFailed(Exception):
    """The task took more time or memory than it may."""


class Trial:
    """Runs tasks in a child, one at a time. The child starts with the first task; after one that
    it did not survive another child takes its place."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: LimitedProcess | None = None
        self.spent_s = 0.0
        """Computing of all tasks so far."""

    def run(self, task: Callable[[A], R], argument: A) -> R:
        """What *task* returns for *argument*; both are JSON values. Raises TrialFailed, or
        EngineBusy when the system has no process or too little time for it."""
        with self._lock:
            try:
                if self._process is None or not self._process.is_alive:
                    self._process = LimitedProcess(MEMORY_BYTES, NICENESS)
                result: R
                result, spent_s = self._process.call(task, argument, cpu_s=CPU_S, wall_s=WALL_S)
                self.spent_s += spent_s
            except TooLate as error:
                message = "the device is too busy to compile the response format: try again"
                raise EngineBusy(message, RETRY_AFTER_S) from error
            except LimitPassed as error:
                self.spent_s += CPU_S
                message = "it takes too much time or memory to compile: simplify it"
                raise TrialFailed(message) from error
            except (OSError, RuntimeError) as error:
                message = f"the response format cannot be compiled now: {error}: try again later"
                raise EngineBusy(message, RETRY_AFTER_S) from error
            return result


_TOKEN = re.compile(r"<\[\d+\]>")


def error_of(grammar: str) -> str:
    """Why *grammar* cannot be compiled; empty when it can. Its automata are built, too, which the
    check of the grammar leaves out: multiples of a large number have as many states."""
    is_error, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    if is_error:
        return messages[0]
    # The vocabulary here is that of single bytes, which has no tokens of other numbers.
    matcher = LLMatcher(_bytes(), _TOKEN.sub("<[0]>", grammar), log_level=0)
    matcher.compute_bitmask()
    return ""


@functools.cache
def _bytes() -> LLTokenizer:
    return LLTokenizer("byte")
