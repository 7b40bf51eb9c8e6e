"""Stops Python code that takes too long, in any thread."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class DeadlinePassed(Exception):
    """The code ran longer than allowed."""


def within(seconds: float, work: Callable[[], T]) -> T:
    """Return work(), or raise DeadlinePassed after *seconds*.

    The exception is raised between two bytecodes: a single long C call is not interrupted.
    """
    thread_id = ctypes.c_ulong(threading.get_ident())
    lock, done = threading.Lock(), False
    raise_in = ctypes.pythonapi.PyThreadState_SetAsyncExc

    def strike() -> None:
        with lock:
            if not done:
                raise_in(thread_id, ctypes.py_object(DeadlinePassed))

    timer = threading.Timer(seconds, strike)
    timer.daemon = True
    timer.start()
    try:
        try:
            return work()
        finally:
            timer.cancel()
            with lock:
                done = True
            # The exception may have been set after the last line of the work: clear it.
            raise_in(thread_id, None)
    except DeadlinePassed:
        raise DeadlinePassed(f"stopped after {seconds:g} s") from None
