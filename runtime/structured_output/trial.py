"""Compiles grammars in a child process first: no call of llguidance can be interrupted, but a
process can be ended, and its time and memory can be limited."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import msgspec
from llguidance import LLMatcher

from spillover.runtime.errors import EngineBusy
from spillover.runtime.structured_output.schema_faults import fault_in, freed

CPU_S = 2.0
"""CPU time for one task."""
WALL_S = 8.0
"""A child that gets too little CPU time is given up after this, so that others have their turn
within constraint_compiler.MAX_WAIT_S."""
MEMORY_BYTES = 1 << 30
RETRY_AFTER_S = 5.0
NICENESS = 5
"""Answers that are running go first."""

_LENGTH = struct.Struct("<I")
_BOOT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv.pop()); "
    "from spillover.runtime.structured_output.trial import main; main()"
)


class TrialFailed(Exception):
    """The task took more time or memory than it may."""


class Trial:
    """Runs tasks in a child, one at a time. The child starts with the first task; after one that
    it did not survive another child takes its place."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._end: Callable[[], object] = _nothing

    def run(self, task: str, argument: object) -> Any:
        """What the task *task* of TASKS returns for *argument*. Raises TrialFailed, or EngineBusy
        when the system has no process or too little time for it."""
        with self._lock:
            if self._child is not None and self._child.poll() is not None:
                self._end()  # the system ended it meanwhile
                self._child = None
            is_late = threading.Event()

            def give_up() -> None:
                is_late.set()
                child.kill()

            try:
                child = self._child or self._start()
                timer = threading.Timer(WALL_S, give_up)
                timer.daemon = True
                timer.start()
            except (OSError, RuntimeError) as error:
                message = f"the response format cannot be compiled now: {error}: try again later"
                raise EngineBusy(message, RETRY_AFTER_S) from error
            assert child.stdin is not None
            assert child.stdout is not None
            try:
                _write(child.stdin, (task, argument))
                answer = _read(child.stdout)
            except OSError:
                answer = None
            finally:
                timer.cancel()
            if answer is None:
                self._child = None
                self._end()
                if is_late.is_set():  # which says more of the device than of the task
                    message = "the device is too busy to compile the response format: try again"
                    raise EngineBusy(message, RETRY_AFTER_S)
                raise TrialFailed("it takes too much time or memory to compile: simplify it")
            return answer[0]

    def _start(self) -> subprocess.Popen[bytes]:
        child = self._child = _start()
        self._end = weakref.finalize(self, _end, child)
        return child


def _nothing() -> None:
    """No child has been started."""


def _end(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError), child:
        child.kill()


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _BOOT, json.dumps(sys.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def _write(stream: Any, value: object) -> None:
    body = msgspec.msgpack.encode(value)
    stream.write(_LENGTH.pack(len(body)) + body)
    stream.flush()


def _read(stream: Any) -> Any:
    """The next value; None at the end of the stream."""
    head = stream.read(_LENGTH.size)
    body = stream.read(*_LENGTH.unpack(head)) if len(head) == _LENGTH.size else b""
    return msgspec.msgpack.decode(body) if body else None


def error_of(grammar: str) -> str:
    """Why *grammar* cannot be compiled; empty when it can."""
    is_error, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    return messages[0] if is_error else ""


TASKS: dict[str, Callable[[Any], Any]] = {
    "error_of": error_of,
    "fault_in": fault_in,
    "freed": freed,
}


def main() -> None:
    """Serve tasks from stdin until it ends."""
    _limit_memory()
    tasks, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    if hasattr(signal, "SIGINT"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's business
    for name, argument in _asked(tasks):
        with _limited_time():
            answer = TASKS[name](argument)
        _write(answers, (answer,))


def _asked(stream: BinaryIO) -> Iterator[tuple[str, Any]]:
    while (task := _read(stream)) is not None:
        yield task


def _limit_memory() -> None:
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@contextlib.contextmanager
def _limited_time() -> Iterator[None]:
    """The process ends when this takes CPU_S of CPU time: what SIGPROF does by itself."""
    if not hasattr(signal, "setitimer"):
        yield
        return
    signal.setitimer(signal.ITIMER_PROF, CPU_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
