"""Renders a template's source with values, within limits of memory and time.

Templates whose cost can be told from their source are rendered in the caller's thread while that
cost is small. All others may hold anything, and come from files of strangers: they are rendered in
a process of their own, which also leaves this interpreter's lock to the threads that decode.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from spillover.runtime.chat import render_process as child
from spillover.runtime.chat.sandbox import TemplateRefusal, compile_template
from spillover.runtime.chat.template_cost import TemplateCost, cost_of
from spillover.runtime.errors import EngineBusy
from spillover.runtime.limited_process import LimitedProcess, LimitPassed

MAX_COST = 1 << 25
"""Characters that a rendering in the caller's thread may copy: some milliseconds."""

RETRY_AFTER_S = 5.0

WALL_FACTOR = 5
"""A process that is not served by the system gets this many times its limit of computing."""


class TemplateFailure(Exception):
    """The template failed on these values."""


@dataclass
class TimeAllowance:
    """Seconds of computing that are left to some renderings together."""

    left_s: float


class Renderer:
    """Renders *source*, also for several threads at once. Raises jinja2.TemplateError,
    RecursionError, TemplateFailure or LimitPassed if it cannot be compiled."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._cost: TemplateCost | None = cost_of(source)
        self._template = compile_template(source) if self._cost is not None else None
        self._idle = [] if self._template is not None else [self._start()]
        self._lock = threading.Lock()

    def render(self, values: dict[str, Any], allowance: TimeAllowance) -> str:
        """The text. Raises TemplateRefusal, TemplateFailure, LimitPassed, or EngineBusy when the
        system has no process for it."""
        cost = self._cost
        if self._template is not None and cost is not None and cost.of(values) <= MAX_COST:
            return _text_of(*child.outcome_of(self._template, values))
        if allowance.left_s <= 0:
            raise LimitPassed("stopped after its time of computing")
        try:
            process = self._take() or self._start()
            try:
                return self._render_in(process, values, allowance)
            finally:
                self._give_back(process)
        except (OSError, RuntimeError) as error:  # no more processes, threads or files
            message = f"the chat template cannot be rendered now: {error}: try again later"
            raise EngineBusy(message, RETRY_AFTER_S) from error

    def _start(self) -> LimitedProcess:
        """A process that holds the compiled template."""
        process = LimitedProcess(child.MAX_MEMORY_BYTES)
        try:
            self._render_in(process, None, TimeAllowance(child.COMPILE_S))
        except BaseException:
            process.end()
            raise
        return process

    def _render_in(
        self, process: LimitedProcess, values: dict[str, Any] | None, allowance: TimeAllowance
    ) -> str:
        left_s = allowance.left_s
        (outcome, text), spent_s = process.call(
            child.rendered, self._source, values, cpu_s=left_s, wall_s=WALL_FACTOR * left_s
        )
        allowance.left_s -= spent_s
        return _text_of(outcome, text)

    def _take(self) -> LimitedProcess | None:
        with self._lock:
            process = self._idle.pop() if self._idle else None
        if process is None or process.is_alive:
            return process
        process.end()  # the system may have ended it meanwhile
        return None

    def _give_back(self, process: LimitedProcess) -> None:
        """One waits for the next conversation; a second one was needed beside a long one."""
        with self._lock:
            if process.is_alive and not self._idle:
                self._idle.append(process)
                return
        process.end()


def _text_of(outcome: str, text: str) -> str:
    """The rendered *text*. Raises TemplateRefusal or TemplateFailure for another *outcome*."""
    if outcome == child.REFUSED:
        raise TemplateRefusal(text)
    if outcome == child.FAILED:
        raise TemplateFailure(text)
    return text
