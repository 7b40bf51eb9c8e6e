"""Text of an answer on its way to standard output."""

from __future__ import annotations

import io
import sys
from typing import TextIO

from spillover.edge_server.commands.terminal import TerminalFilter

_DIM, _NORMAL = "\x1b[2m", "\x1b[0m"


class AnswerOutput:
    """Writes text as it comes: safe for a terminal if it is one, untouched if it is not."""

    def __init__(self, stream: TextIO, *, dim: bool = False) -> None:
        self._stream = stream
        self._filter = TerminalFilter() if stream.isatty() else None
        self._dim = dim and self._filter is not None
        self._last = "\n"
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a character the locale lacks is no failure

    def write(self, text: str) -> None:
        if self._filter is not None:
            text = self._filter.feed(text)
        if text:
            self._stream.write(f"{_DIM}{text}{_NORMAL}" if self._dim else text)
            self._stream.flush()
            self._last = text[-1]

    def end_line(self) -> None:
        """Make sure that what comes next begins a line."""
        if self._last != "\n":
            self.write("\n")


def answer_to_stdout() -> AnswerOutput:
    return AnswerOutput(sys.stdout)


def reasoning_to_stderr() -> AnswerOutput:
    """What the model thinks goes beside the answer and not into it."""
    return AnswerOutput(sys.stderr, dim=True)
