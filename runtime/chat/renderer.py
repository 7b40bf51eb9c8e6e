"""Renders a template's source with values, within limits of memory and time.

Templates whose cost can be told from their source are rendered in the caller's thread while that
cost is small. All others may hold anything, and come from files of strangers: they are rendered in
a process of their own, which also leaves this interpreter's lock to the threads that decode.
"""

from __future__ import annotations

import json
import marshal
import os
import signal
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from subprocess import DEVNULL, PIPE, Popen
from typing import Any

from spillover.runtime.chat import render_process as child
from spillover.runtime.chat.sandbox import TemplateRefusal, compile_template
from spillover.runtime.chat.template_cost import TemplateCost, cost_of
from spillover.runtime.errors import EngineBusy

MAX_COST = 1 << 25
"""Characters that a rendering in the caller's thread may copy: some milliseconds."""

RETRY_AFTER_S = 5.0

WALL_FACTOR = 5
"""A process that is not served by the system gets this many times its limit of computing."""

_BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv.pop()); "
    "from spillover.runtime.chat.render_process import main; main()"
)
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "LANG", "LC_ALL", "TZ", "SYSTEMROOT")


class TemplateFailure(Exception):
    """The template failed on these values."""


class LimitPassed(Exception):
    """Rendering would have taken more memory or time than it may."""


@dataclass
class Allowance:
    """Seconds of computing that are left to some renderings together."""

    left_s: float


class Renderer:
    """Renders *source*, also for several threads at once. Raises jinja2.TemplateError,
    RecursionError, TemplateFailure or LimitPassed if it cannot be compiled."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._cost: TemplateCost | None = cost_of(source)
        self._template = compile_template(source) if self._cost is not None else None
        self._idle = [] if self._template is not None else [_Process(source)]
        self._lock = threading.Lock()
        weakref.finalize(self, _end_all, self._idle)

    def render(self, values: dict[str, Any], allowance: Allowance) -> str:
        """The text. Raises TemplateRefusal, TemplateFailure, LimitPassed, or EngineBusy when the
        system has no process for it."""
        cost = self._cost
        if self._template is not None and cost is not None and cost.of(values) <= MAX_COST:
            try:
                return self._template.render(values)
            except child.RENDER_ERRORS as error:
                raise TemplateFailure(child.describe(error)) from error
        if allowance.left_s <= 0:
            raise LimitPassed("stopped after its time of computing")
        try:
            process = self._take() or _Process(self._source)
            try:
                return process.ask((allowance.left_s, values), allowance)
            finally:
                self._give_back(process)
        except (OSError, RuntimeError) as error:  # no more processes, threads or files
            message = f"the chat template cannot be rendered now: {error}: try again later"
            raise EngineBusy(message, RETRY_AFTER_S) from error

    def _take(self) -> _Process | None:
        with self._lock:
            process = self._idle.pop() if self._idle else None
        if process is None or process.is_alive:
            return process
        process.end()  # the system may have ended it meanwhile
        return None

    def _give_back(self, process: _Process) -> None:
        """One waits for the next conversation; a second one was needed beside a long one."""
        with self._lock:
            if process.is_usable and not self._idle:
                self._idle.append(process)
                return
        process.end()


def _end_all(processes: list[_Process]) -> None:
    for process in processes:
        process.end()


class _Process:
    """A process that holds the compiled template. Raises as Renderer does."""

    def __init__(self, source: str) -> None:
        self._process = Popen(
            [sys.executable, "-P", "-c", _BOOT, json.dumps(sys.path)],
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        )
        self.is_usable = True
        try:
            self.ask(source, Allowance(child.COMPILE_S))
        except BaseException:
            self.end()
            raise

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, question: Any, allowance: Allowance) -> str:
        """The reply to the source, or to the seconds and values of a rendering."""
        self.is_usable = False
        with self._process_ended_after(WALL_FACTOR * allowance.left_s):
            self._send(marshal.dumps(question))
            assert self._process.stdout is not None
            reply = child.read(self._process.stdout)
        if reply is None:
            raise LimitPassed(self._end_in_words(allowance.left_s))
        outcome, spent_s = child.HEAD.unpack_from(reply)
        allowance.left_s -= spent_s
        text = reply[child.HEAD.size :].decode("utf-8", "surrogatepass")
        if outcome == child.LIMIT:
            raise LimitPassed(f"stopped at {child.MAX_MEMORY_BYTES >> 20} MiB of memory")
        self.is_usable = True
        if outcome == child.REFUSED:
            raise TemplateRefusal(text)
        if outcome == child.FAILED:
            raise TemplateFailure(text)
        return text

    @contextmanager
    def _process_ended_after(self, seconds: float) -> Iterator[None]:
        timer = threading.Timer(seconds, self._process.kill)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _send(self, body: bytes) -> None:
        assert self._process.stdin is not None
        # That it has ended is seen when its reply is read.
        with suppress(BrokenPipeError):
            self._process.stdin.write(child.LENGTH.pack(len(body)) + body)
            self._process.stdin.flush()

    def _end_in_words(self, seconds: float) -> str:
        if self._process.wait() == -getattr(signal, "SIGPROF", 0):
            return f"stopped after {seconds:g} s of computing"
        return "stopped at its limit of memory or time"

    def end(self) -> None:
        """Returns when the process is gone."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            # What a process did not read is not written when its pipe is closed.
            with suppress(BrokenPipeError):
                pipe and pipe.close()
        self._process.wait()
