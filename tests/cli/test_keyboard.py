"""What a user types while an answer comes, at a terminal of its own."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
import termios

import pytest

_PROGRAM = """
import fcntl, os, sys, termios
from spillover.edge_server.commands.terminal.keyboard import question_at_terminal, unseen_typing
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
def meet(word):  # the test goes on when it reads the word
    os.write(1, word)
    os.read(int(sys.argv[1]), 1)
with unseen_typing():
    meet(b"[1]")
    with question_at_terminal():
        meet(b"[2]")
        os.write(1, b"<" + sys.stdin.readline().strip().encode() + b">")
    meet(b"[3]")
os.write(1, b"<" + sys.stdin.readline().strip().encode() + b">[end]")
"""

_ENDED = """
import fcntl, os, signal, termios
from spillover.edge_server.cli import unwind_at_signals
from spillover.edge_server.commands.terminal.keyboard import unseen_typing
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
unwind_at_signals()
with unseen_typing():
    os.write(1, b"[1]")
    signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_the_program_leaves_the_terminal_as_it_was(
    number: signal.Signals,
) -> None:
    """It went on without showing what is typed."""
    keyboard, terminal = os.openpty()
    command = [sys.executable, "-c", _ENDED]
    process = subprocess.Popen(command, stdin=terminal, stdout=terminal, stderr=terminal)
    assert select.select([keyboard], [], [], 60)[0]
    assert os.read(keyboard, 3) == b"[1]"
    assert not termios.tcgetattr(terminal)[3] & termios.ECHO
    process.send_signal(number)
    assert process.wait(60) == 128 + number
    assert termios.tcgetattr(terminal)[3] & termios.ECHO
    os.close(keyboard)
    os.close(terminal)


def test_typing_is_not_shown_in_an_answer_and_answers_no_later_question() -> None:
    """Somebody who typed ahead could have consented to a question that was not asked yet."""
    go_read, go_write = os.pipe()
    keyboard, terminal = os.openpty()
    command = [sys.executable, "-c", _PROGRAM, str(go_read)]
    process = subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, pass_fds=[go_read]
    )
    seen = b""

    def type_line(line: bytes) -> None:
        """Returns when the terminal has the line, whose echo is then decided."""
        os.write(keyboard, line + b"\n")
        while not int.from_bytes(fcntl.ioctl(terminal, termios.FIONREAD, bytes(4)), sys.byteorder):
            assert process.poll() is None

    def until(word: bytes) -> None:
        nonlocal seen
        while word not in seen:
            assert select.select([keyboard], [], [], 60)[0], seen
            seen += os.read(keyboard, 1024)

    until(b"[1]")
    type_line(b"yes")
    os.write(go_write, b".")
    until(b"[2]")
    type_line(b"no")
    until(b"no\r\n")
    os.write(go_write, b".")
    until(b"[3]")
    type_line(b"ahead")
    os.write(go_write, b".")
    until(b"[end]")
    assert process.wait(60) == 0
    assert seen == b"[1][2]no\r\n<no>[3]<ahead>[end]"
    for fd in (keyboard, terminal, go_read, go_write):
        os.close(fd)
