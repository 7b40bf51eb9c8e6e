"""What is typed while an answer is written: whether the terminal shows it, and who gets it."""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

try:
    import termios
except ImportError:  # not on Windows, whose console shows nothing while nobody reads
    termios = None  # type: ignore[assignment]  # asked before each use


OnLine = Callable[[str | None], object]
"""Takes a line that was typed, without its newline; None: the end of the input."""

_reading = threading.Lock()
"""Held by whoever reads the terminal, which a process has but one of."""


@contextmanager
def unseen_typing(on_line: OnLine | None = None) -> Generator[None]:
    """What is typed now is not shown. Each line goes to *on_line*, in a thread of its own; without
    it whoever reads next gets and shows what was typed."""
    with _echo(False):
        if on_line is None or termios is None or not _is_ours():
            yield
            return
        end, ends = os.pipe()
        reader = threading.Thread(target=_read_lines, args=(on_line, end), daemon=True)
        reader.start()
        try:
            yield
        finally:
            os.close(ends)
            reader.join()
            os.close(end)


def _read_lines(on_line: OnLine, end: int) -> None:
    """Hand on lines as they are typed, until *end* can be read."""
    terminal = sys.stdin.fileno()
    while True:
        ready, _, _ = select.select([terminal, end], [], [])
        if end in ready or not _is_ours():  # who reads in the background is stopped
            return
        with _reading:
            if not select.select([terminal], [], [], 0)[0]:
                continue  # it answered a question
            line = os.read(terminal, 65_536)  # a terminal gives one line at a time
        on_line(line.decode(errors="replace").rstrip("\n") if line else None)
        if not line:
            return


@contextmanager
def question_at_terminal() -> Generator[None]:
    """What is typed now is shown; what was typed before answers no question."""
    with _reading, _echo(True):
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
