"""Ends a running llama_decode from another thread, without a Python callback.

llama.cpp calls its abort callback before each graph node, some hundred times per decode, and a
Python function would take the interpreter lock each time. The C library's strlen on a two-byte
buffer does the job: "" (0) means continue, a one-character string (1) means stop.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

from spillover.runtime.llama.library import lib


class AbortFlag:
    """A flag that any thread may raise. llama.cpp's CPU and Metal backends honour it."""

    def __init__(self) -> None:
        libc = ctypes.cdll.msvcrt if sys.platform == "win32" else ctypes.CDLL(None)
        self._flag = (ctypes.c_char * 2)()
        address = ctypes.cast(libc.strlen, ctypes.c_void_p).value
        assert address is not None
        self._callback = lib.ggml_abort_callback(address)

    def attach(self, context: Any) -> None:
        flag = ctypes.cast(self._flag, ctypes.c_void_p)
        lib.llama_set_abort_callback(context, self._callback, flag)

    def lower(self) -> None:
        self._flag[0] = b"\0"

    def raise_(self) -> None:
        self._flag[0] = b"\1"
