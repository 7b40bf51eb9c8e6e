"""ONNX Runtime lets the thread that makes the first session flush denormal numbers to zero, and
hypothesis rightly refuses to work in such a thread."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Generator


@contextlib.contextmanager
def kept_fp_environment() -> Generator[None]:
    """Undo at the end what the block changed in this thread's floating-point environment."""
    libc = ctypes.CDLL(None)
    saved = ctypes.create_string_buffer(512)
    libc.fegetenv(saved)
    try:
        yield
    finally:
        libc.fesetenv(saved)
