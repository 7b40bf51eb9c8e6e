"""Ends a process when the one that started it is gone, by whatever signal."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable


def watch_parent(on_death: Callable[[], None]) -> None:
    """Call *on_death* in a thread of its own once the parent process has ended.

    Needs Linux 5.3 for this; elsewhere the end of the command pipe tells the same, unless
    another child of the parent has inherited its other end.
    """
    parent = os.getppid()
    if not hasattr(os, "pidfd_open"):
        return
    try:
        fd = os.pidfd_open(parent)
    except OSError:
        return
    if os.getppid() != parent:
        on_death()
    threading.Thread(target=_wait, args=(fd, on_death), name="parent-watch", daemon=True).start()


def _wait(fd: int, on_death: Callable[[], None]) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    poll.poll()
    on_death()
