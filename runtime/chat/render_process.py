"""The process that renders one chat template which may need much memory or time.

It reads frames (four bytes of length, then marshal's format: only this project's own process writes
them), and answers each with a byte for the outcome, the seconds of computing, and a text. The
operating system ends it at its limit of memory or computing, whatever operation it is in.
"""

from __future__ import annotations

import marshal
import os
import signal
import struct
import sys
import time
from typing import IO, Any, BinaryIO

from jinja2.exceptions import TemplateError

from spillover.runtime.chat.sandbox import TemplateRefusal, compile_template

MAX_MEMORY_BYTES = 512 * 2**20
"""Address space of the process, of which the interpreter takes about 60 MB."""

COMPILE_S = 10.0
"""Seconds of computing for reading the template."""

MAX_PROMPT_CHARS = 64 * 2**20
MAX_ERROR_CHARS = 500

LENGTH = struct.Struct("<I")
HEAD = struct.Struct("<cd")
RENDERED, REFUSED, FAILED, LIMIT = b"+", b"r", b"f", b"l"


def main() -> None:
    """Serve the other end of the standard streams until it closes them."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    _limit_memory()
    if hasattr(signal, "SIGINT"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    source = read(requests)
    if source is None:
        return
    _limit_time(COMPILE_S)
    try:
        template = compile_template(marshal.loads(source))
    except (MemoryError, *RENDER_ERRORS) as error:
        _reply(replies, FAILED, describe(error))
        return
    _reply(replies, RENDERED, "")
    while (body := read(requests)) is not None:
        seconds, values = marshal.loads(body)
        _limit_time(seconds)
        started = time.process_time()
        outcome, text = _render(template, values)
        spent = time.process_time() - started
        _limit_time(0.0)
        _reply(replies, outcome, text, spent)
        if outcome == LIMIT:
            return  # what is left of the memory may be in pieces


def _reply(replies: BinaryIO, outcome: bytes, text: str, spent: float = 0.0) -> None:
    content = text.encode("utf-8", "surrogatepass")
    replies.write(LENGTH.pack(HEAD.size + len(content)) + HEAD.pack(outcome, spent) + content)
    replies.flush()


def _render(template: Any, values: dict[str, Any]) -> tuple[bytes, str]:
    try:
        text = template.render(values)
        if len(text) > MAX_PROMPT_CHARS:
            return FAILED, f"it renders {len(text)} characters"
        return RENDERED, text
    except TemplateRefusal as refusal:
        return REFUSED, str(refusal)
    except MemoryError:
        return LIMIT, "memory"
    except RENDER_ERRORS as error:
        return FAILED, describe(error)


RENDER_ERRORS = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
    SyntaxError,
)
"""What a template can raise."""


def describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")[:MAX_ERROR_CHARS]


def read(stream: IO[bytes]) -> bytes | None:
    """The next frame's body; None at the end of the stream."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    body = stream.read(length)
    return body if len(body) == length else None


def _limit_memory() -> None:
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_time(seconds: float) -> None:
    """SIGPROF ends the process after so many seconds of computing; 0: no limit."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_PROF, seconds)
