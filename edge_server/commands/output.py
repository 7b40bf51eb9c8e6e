"""What commands print: results to standard output, everything else to standard error."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from typing import Any, TextIO

import click

from spillover.edge_server.commands.terminal.safe_text import TerminalFilter, safe
from spillover.edge_server.commands.terminal.word_wrap import WordWrap

_DIM, _NORMAL = "\x1b[2m", "\x1b[0m"


def print_result(text: str) -> None:
    """Print *text*, which may quote a model or a file, on standard output."""
    click.echo(safe(text))


def print_json(value: Any, *, on_one_line: bool = False) -> None:
    """Print *value* as JSON on standard output; what msgspec cannot encode is printed as text."""
    import msgspec  # slow, and `spillover --help` does without

    try:
        encoded = msgspec.json.encode(value, enc_hook=str)
    except UnicodeEncodeError:  # the name of a file is not UTF-8
        found = msgspec.to_builtins(value, enc_hook=str)
        click.echo(json.dumps(found, indent=None if on_one_line else 2))
    else:
        click.echo(encoded if on_one_line else msgspec.json.format(encoded))


def print_note(text: str, *, ends_line: bool = True, wraps: bool = True) -> None:
    """Print *text*, which may quote a model or a file, on standard error. On a terminal its lines
    end between words, unless somebody may want to copy them (*wraps*)."""
    shown = _wrap().feed(safe(text)) if wraps and _obeys(sys.stderr) else safe(text)
    click.echo(shown, err=True, nl=ends_line)


def _obeys(stream: TextIO) -> bool:
    """Whether what *stream* leads to follows escape sequences."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _wrap() -> WordWrap:
    return WordWrap(lambda: shutil.get_terminal_size().columns)


class AnswerOutput:
    """Writes text as it arrives: on a terminal filtered and, unless it is for programs (*wraps*),
    in lines that end between words; unchanged anywhere else. *beside*: what else is written in the
    same lines."""

    def __init__(
        self,
        stream: TextIO,
        *,
        dim: bool = False,
        wraps: bool = True,
        beside: AnswerOutput | None = None,
    ) -> None:
        self._stream = stream
        self._filter = TerminalFilter() if stream.isatty() else None
        known = None if beside is None else beside._wrap  # which knows where the cursor stands
        self._wrap: WordWrap | None = known or _wrap() if wraps and _obeys(stream) else None
        self._dim = dim and _obeys(stream)
        self._last = "\n"
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # the locale may lack a character

    def write(self, text: str) -> None:
        if self._filter is not None:
            text = self._filter.feed(text)
        if text:
            shown = text if self._wrap is None else self._wrap.feed(text)
            self._stream.write(f"{_DIM}{shown}{_NORMAL}" if self._dim else shown)
            self._stream.flush()
            self._last = text[-1]

    def end_line(self) -> None:
        """Start a new line unless one has just started."""
        if self._last != "\n":
            self.write("\n")


def answer_to_stdout(*, wraps: bool = True, beside: AnswerOutput | None = None) -> AnswerOutput:
    return AnswerOutput(sys.stdout, wraps=wraps, beside=beside)


def remarks_to_stderr(*, beside: AnswerOutput | None = None) -> AnswerOutput:
    """What stays out of the answer, which may go to a pipe: reasoning and handoffs."""
    return AnswerOutput(sys.stderr, dim=True, beside=beside)
