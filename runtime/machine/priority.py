"""The priority of single threads."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress

_NICENESS = 10


def lower_thread_priority() -> None:
    """Let other threads have the cores first: this one, and those that it starts from now on."""
    if sys.platform == "linux":  # where a thread can have a priority of its own
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
