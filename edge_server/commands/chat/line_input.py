"""Messages typed at a terminal, with editing and history, or read from a pipe."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from pathlib import Path

from spillover.runtime.text.surrogates import valid_text

BLOCK = '"""'
_MAX_HISTORY = 1_000

ReadLine = Callable[[str], str]
"""Shows a prompt and returns a line without its newline; raises EOFError at the end of input."""


def read_message(read_line: ReadLine) -> str | None:
    """The next message, which may span several lines; None at the end of input. What is not UTF-8
    becomes U+FFFD."""
    message = _typed(read_line)
    return None if message is None else valid_text(message)


def _typed(read_line: ReadLine) -> str | None:
    try:
        line = read_line("> ")
        if line.lstrip().startswith(BLOCK):
            return _block(line.lstrip().removeprefix(BLOCK), read_line)
        lines = []
        while line.endswith("\\"):
            lines.append(line[:-1])
            line = read_line(". ")
        return "\n".join([*lines, line])
    except EOFError:
        return None


def _block(line: str, read_line: ReadLine) -> str:
    lines = []
    while not line.rstrip().endswith(BLOCK):
        lines.append(line)
        line = read_line(". ")
    lines.append(line.rstrip().removesuffix(BLOCK))
    return "\n".join(lines).strip("\n")


def line_reader() -> ReadLine:
    """Reads with editing and history at a terminal, and plain lines elsewhere."""
    if sys.stdin.isatty():
        _remember_lines()
        return input
    return _read_piped


def _read_piped(_prompt: str) -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\n")


def _remember_lines() -> None:
    """Give input() editing and a history, kept in a file that only the user can read."""
    try:
        import readline  # not in every Python
    except ImportError:
        return
    import platformdirs

    path = platformdirs.user_state_path("spillover", appauthor=False) / "chat_history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT, 0o600))
        readline.read_history_file(path)
    except OSError:
        return  # a chat works without its history
    readline.set_history_length(_MAX_HISTORY)
    atexit.register(_write_history, path)


def _write_history(path: Path) -> None:
    import readline

    try:
        readline.write_history_file(path)
    except OSError:
        return
