"""Whether a terminal shows what is typed."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager

try:
    import termios
except ImportError:  # not on Windows, whose console shows nothing while nobody reads
    termios = None  # type: ignore[assignment]  # asked before each use


@contextmanager
def unseen_typing() -> Generator[None]:
    """What is typed now is not shown; whoever reads next shows it."""
    with _echo(False):
        yield


@contextmanager
def question_at_terminal() -> Generator[None]:
    """What is typed now is shown; what was typed before answers no question."""
    with _echo(True):
        if termios is not None:
            termios.tcflush(sys.stdin, termios.TCIFLUSH)
        yield


@contextmanager
def _echo(wanted: bool) -> Generator[None]:
    if termios is None or not _is_ours():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    now = list(before)
    now[3] = now[3] | termios.ECHO if wanted else now[3] & ~termios.ECHO
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, now)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _is_ours() -> bool:
    """Whether standard input is the terminal that we are in the foreground of; a program in the
    background that changes its terminal is stopped."""
    try:
        return sys.stdin.isatty() and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except OSError:
        return False
