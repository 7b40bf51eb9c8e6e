"""Runs functions in a child process, tells how far it is, and ends with its parent.

Native code that reads a model's file may crash or run for minutes: a process can be ended, whatever
it does. Calls go to the child's stdin, which stays open: when it ends, so does the child. A line of
JSON comes back for each step and one for each result, a format that is safe to read.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self, TypeVar, get_type_hints

import msgspec
from msgspec import Struct

from spillover.models.errors import ModelFileError
from spillover.quantize.errors import QuantizeError
from spillover.runtime.errors import SpilloverError, shortage

if TYPE_CHECKING:
    import subprocess

Progress = Callable[[str, int, int], None]
"""Called with what is done now, the parts of it that are done, and all its parts."""

_BOOT = "import sys, json; sys.path[:] = json.loads(sys.argv.pop()); from {} import main; main()"

Order = TypeVar("Order", bound=Struct)
Result = TypeVar("Result")


class _Call(Struct, frozen=True):
    module: str
    function: str
    order: msgspec.Raw
    scratch: Path | None


class _Step(Struct, frozen=True, tag="step"):
    what: str
    n_done: int
    n_all: int


class _Failed(Struct, frozen=True, tag="failed"):
    message: str


class _Done(Struct, frozen=True, tag="done"):
    result: msgspec.Raw


def call_in_child(
    function: Callable[[Order, Progress], Result], order: Order, progress: Progress
) -> Result:
    """The result of *function* in a process that does nothing else. See Child.call()."""
    with Child() as child:
        return child.call(function, order, progress)


class Child:
    """A process that computes one call after the other. Raises OSError when the system has none."""

    def __init__(self) -> None:
        self._process = start_process(__name__)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()

    def call(
        self,
        function: Callable[[Order, Progress], Result],
        order: Order,
        progress: Progress,
        *,
        scratch: Path | None = None,
    ) -> Result:
        """The result of *function*, a name of its module, for its parameter *order*.

        The child removes the file *scratch* when this process dies before the next call. Raises
        QuantizeError.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        call = _Call(
            module=function.__module__,
            function=function.__name__,
            order=msgspec.Raw(_encode(order)),
            scratch=scratch,
        )
        with suppress(OSError):  # its end shows when the result is read
            stdin.write(_encode(call) + b"\n")
            stdin.flush()
        for line in stdout:
            match _decode(line):
                case _Step(what, n_done, n_all):
                    progress(what, n_done, n_all)
                case _Failed(message):
                    raise QuantizeError(message)
                case _Done(result):
                    hint = get_type_hints(function)["return"]
                    found: Result = msgspec.json.decode(result, type=hint, dec_hook=_path)
                    return found
        from spillover.runtime.worker.exits import describe_exit  # the child does without

        raise QuantizeError(f"the process that computed {describe_exit(self._process.wait())}")


def start_process(module: str) -> subprocess.Popen[bytes]:
    """A process that runs main() of *module*, with pipes. Raises OSError."""
    import subprocess  # the child does without

    from spillover.runtime.worker.environment import environment

    return subprocess.Popen(
        [sys.executable, "-P", "-c", _BOOT.format(module), json.dumps(sys.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment("auto"),
        # Its own group, so that the terminal's Ctrl-C reaches this process only.
        process_group=0 if os.name == "posix" else None,
    )


def main() -> None:
    """Do what each line of stdin says, one after the other: the child's part."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    orders, reports = take_streams()
    calls: queue.Queue[_Call] = queue.Queue(1)
    receiver = threading.Thread(target=_receive, args=(orders, calls), daemon=True)
    receiver.start()

    def report(message: _Step | _Failed | _Done) -> None:
        try:
            reports.write(msgspec.json.encode(message) + b"\n")
            reports.flush()
        except BrokenPipeError:  # the parent has ended: _receive() cleans up and ends this process
            receiver.join()

    while True:
        outcome = _outcome(calls.get(), lambda *step: report(_Step(*step)))
        report(outcome)


def _receive(orders: BinaryIO, calls: queue.Queue[_Call]) -> None:
    """Take calls until the parent has ended, and end with it. Native code does not return to
    Python's signal handlers in time, so this thread cleans up."""
    scratch: Path | None = None
    for line in orders:
        if not line.endswith(b"\n"):
            break
        call = msgspec.json.decode(line, type=_Call, dec_hook=_path)
        scratch = call.scratch
        calls.put(call)
    if scratch is not None:
        scratch.unlink(missing_ok=True)
    os._exit(1)


def _outcome(call: _Call, progress: Progress) -> _Failed | _Done:
    function = getattr(importlib.import_module(call.module), call.function)
    hints = get_type_hints(function)
    order = msgspec.json.decode(call.order, type=hints["order"], dec_hook=_path)
    try:
        return _Done(msgspec.Raw(_encode(function(order, progress))))
    except (SpilloverError, ModelFileError) as error:
        return _Failed(str(error))
    except (OSError, MemoryError) as error:
        return _Failed(shortage(error) or str(error))


def take_streams() -> tuple[BinaryIO, BinaryIO]:
    """The two pipes of this process, protected from libraries that print."""
    orders, reports = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    return orders, reports


def _encode(value: Any) -> bytes:
    return msgspec.json.encode(value, enc_hook=str)


def _decode(line: bytes) -> _Step | _Failed | _Done | None:
    """The message; None for the beginning of one whose writer died."""
    try:
        return msgspec.json.decode(line, type=_Step | _Failed | _Done)
    except msgspec.DecodeError:
        return None


def _path(kind: type, value: Any) -> Any:
    return kind(value)
