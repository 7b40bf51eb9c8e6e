"""What test_child.py lets a child process do."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

from msgspec import Struct

from spillover.models.gguf_header import read_header
from spillover.quantize.child import Progress
from spillover.quantize.errors import QuantizeError


class Sum(Struct):
    """Two numbers, and where to write."""

    left: int
    right: int
    path: Path


def add(order: Sum, progress: Progress) -> int:
    print("what a library prints is no result")
    progress("adding", 1, 1)
    return order.left + order.right


def refuse(order: Sum, progress: Progress) -> int:
    raise QuantizeError(f"{order.left} is too much")


def open_model(order: Sum, progress: Progress) -> int:
    return len(read_header(order.path).tensors)


def pid(order: Sum, progress: Progress) -> int:
    return os.getpid()


def die(order: Sum, progress: Progress) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def hang(order: Sum, progress: Progress) -> int:
    """Write half a file, say so, and never end."""
    order.path.write_text("half")
    progress("hanging", 0, 1)
    threading.Event().wait()
    return 0
