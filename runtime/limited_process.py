"""Calls functions in a child process, within limits of memory and time.

Some calls cannot be interrupted; a process can be ended, whatever operation it is in. Both pipes
carry frames: four bytes of length, and then a call in marshal's format or its result in msgpack.
Only this process writes calls. The child may hold what strangers wrote, so its results are in a
format that is safe to read.
"""

from __future__ import annotations

import importlib
import json
import marshal
import os
import signal
import struct
import sys
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from subprocess import DEVNULL, PIPE, Popen
from typing import IO, Any

import msgspec

_BOOT = (
    "import sys, json; sys.path[:], *limits = json.loads(sys.argv.pop()); "
    "from spillover.runtime.limited_process import serve; serve(*limits)"
)
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "PYTHONHOME", "LANG", "LC_ALL", "TZ", "SYSTEMROOT")
_LENGTH = struct.Struct("<I")
_OUT_OF_MEMORY = 3
"""Exit status of the child."""


class LimitPassed(Exception):
    """The call would take more memory or time than it may."""


class TooLate(LimitPassed):
    """The call took too long by the clock, which says more of the device than of the call."""


class LimitedProcess:
    """A child process, for one thread at a time. It ends with a call that passes a limit, with
    end(), or with this object. Raises OSError when the system has no process for it."""

    def __init__(self, memory_bytes: int, niceness: int = 0) -> None:
        """*memory_bytes* is its address space, of which the interpreter takes about 60 MB."""
        self._memory_bytes = memory_bytes
        self._process = Popen(
            [sys.executable, "-P", "-c", _BOOT, json.dumps([sys.path, memory_bytes, niceness])],
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        )
        self.end = weakref.finalize(self, _end, self._process)
        """Returns when the process is gone."""

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def call(
        self, function: Callable[..., Any], *args: Any, cpu_s: float, wall_s: float
    ) -> tuple[Any, float]:
        """The result of *function*, a name of its module, and the seconds of computing. Raises
        LimitPassed, or OSError or RuntimeError when the system has too little for a call."""
        is_late = threading.Event()

        def give_up() -> None:
            is_late.set()
            process.kill()

        process = self._process
        timer = threading.Timer(wall_s, give_up)
        timer.daemon = True
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            timer.start()
            call = marshal.dumps((cpu_s, function.__module__, function.__name__, args))
            with suppress(OSError):  # the end of a process shows when its result is read
                _write(process.stdin, call)
            body = _read(process.stdout)
            if body is None:
                status = process.wait()
                if is_late.is_set():
                    raise TooLate(f"stopped after {wall_s:g} s on a busy device")
                raise LimitPassed(self._limit(status, cpu_s))
            result, spent_s = msgspec.msgpack.decode(body)
        except BaseException:
            self.end()
            raise
        finally:
            timer.cancel()
        return result, spent_s

    def _limit(self, status: int, cpu_s: float) -> str:
        if status == -getattr(signal, "SIGPROF", 0):
            return f"stopped after {cpu_s:g} s of computing"
        if status == _OUT_OF_MEMORY:
            return f"stopped at {self._memory_bytes >> 20} MiB of memory"
        return "stopped at its limit of memory or time"


def _end(process: Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        # What a process did not read is not written when its pipe is closed.
        with suppress(OSError):
            pipe and pipe.close()
    process.wait()


def _write(stream: IO[bytes], body: bytes) -> None:
    stream.write(_LENGTH.pack(len(body)))
    stream.write(body)
    stream.flush()


def _read(stream: IO[bytes]) -> bytes | None:
    """The next frame's body; None at the end of the stream."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    body = stream.read(length)
    return body if len(body) == length else None


def serve(memory_bytes: int, niceness: int) -> None:
    """Run the calls that come from stdin until it ends: the child's part."""
    calls, results = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no result
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    if sys.platform != "win32":
        import resource

        os.nice(niceness)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with suppress(ValueError, OSError):  # a lower limit holds already
            resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    try:
        while (body := _read(calls)) is not None:
            cpu_s, module, name, args = marshal.loads(body)
            function = getattr(importlib.import_module(module), name)
            started = time.process_time()
            _limit_time(cpu_s)
            result = function(*args)
            _limit_time(0.0)
            spent_s = time.process_time() - started
            _write(results, msgspec.msgpack.encode((result, spent_s)))
    except MemoryError:
        os._exit(_OUT_OF_MEMORY)  # what is left of the memory may be in pieces


def _limit_time(seconds: float) -> None:
    """SIGPROF ends the process after so many seconds of computing; 0: no limit."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_PROF, seconds)
