"""Ends a worker process that cannot go on: the parent starts a new one and resumes its requests.
Also what the status of an ended process means."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from spillover.runtime.errors import shortage

EXIT_FAILED = 70
EXIT_PARENT_DIED = 71
EXIT_SHORTAGE = 72
"""The system gave no more memory or threads; the worker has said so in one line."""

KILLED = -int(getattr(signal, "SIGKILL", 1 << 40))
"""The status after SIGKILL. Windows has none."""

MAYBE_SHORTAGE = (-signal.SIGABRT, 1)
"""How libraries end a process when they get no memory, among other reasons: C++ and ggml abort, and
OpenMP exits without another thread."""


def describe_exit(status: int) -> str:
    """Describe an exit status: "was ended by SIGSEGV", "ended with status 70"."""
    if status == EXIT_SHORTAGE:
        return "got no more memory or threads from the system"
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


def exit_on_error(work: Callable[[], None]) -> None:
    """Do *work*; an exception in it ends the process, whichever thread it is in."""
    try:
        work()
    except BaseException as error:
        advice = shortage(error)
        if advice is None:
            traceback.print_exc()
        else:
            sys.stderr.write(f"worker: {advice}\n")
        sys.stderr.flush()
        os._exit(EXIT_FAILED if advice is None else EXIT_SHORTAGE)


def be_first_to_go() -> None:
    """Let the system end this process before any other when it runs out of memory (Linux): who
    needs its work starts a new one."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def exit_with_parent() -> None:
    """End this process once its parent has ended, by whatever signal.

    Needs Linux 5.3. Elsewhere the end of the command pipe has the same effect, unless another
    child of the parent has inherited its other end.
    """
    parent = os.getppid()
    if not hasattr(os, "pidfd_open"):
        return
    try:
        fd = os.pidfd_open(parent)
    except OSError:
        return
    if os.getppid() != parent:
        os._exit(EXIT_PARENT_DIED)
    threading.Thread(target=_wait_and_exit, args=(fd,), name="parent-watch", daemon=True).start()


def _wait_and_exit(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.poll()
    os._exit(EXIT_PARENT_DIED)
