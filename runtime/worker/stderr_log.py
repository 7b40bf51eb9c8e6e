"""Log lines on their way to stderr, for which nobody has to wait."""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
from contextlib import suppress

MAX_WAITING = 1_000
"""Lines that may wait for a reader of stderr."""
LAST_WAIT_S = 1.0
"""For which the end of the process waits for them."""


class StderrLog(logging.Handler):
    """Writes in a thread of its own: a pipe that nobody reads, or a terminal that was stopped,
    holds up no stream. Lines that find MAX_WAITING others before them are dropped and counted."""

    def __init__(self, most: int = MAX_WAITING) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
        self._lines: queue.Queue[str | None] = queue.Queue(most)
        self._n_dropped = 0
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """The handler's lock is held."""
        try:
            line = self.format(record)
        except Exception:  # a message and its arguments do not fit
            self.handleError(record)
            return
        try:
            self._lines.put_nowait(self._missing() + line)
            self._n_dropped = 0
        except queue.Full:
            self._n_dropped += 1
        self._begin()

    def _missing(self) -> str:
        """The note in the place of lines that were dropped."""
        n = self._n_dropped
        return f"WARNING: {n} lines are missing here: stderr took no more\n" if n else ""

    def _begin(self) -> None:
        """Start the thread with the first line: most commands log nothing."""
        if self._thread is None:
            thread = threading.Thread(target=self._write, name="log", daemon=True)
            with suppress(RuntimeError):  # no thread is left: a later line may get one
                thread.start()
                self._thread = thread

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            with suppress(OSError, ValueError):
                _write_all(f"{line}\n")

    def close(self) -> None:
        """Wait for the lines that were not written yet, if they are taken soon."""
        self.acquire()
        thread, self._thread = self._thread, None
        self.release()
        if thread is not None:
            with suppress(queue.Full):
                if note := self._missing():
                    self._lines.put(note.rstrip(), timeout=LAST_WAIT_S)
                self._lines.put(None, timeout=LAST_WAIT_S)
                thread.join(LAST_WAIT_S)
        super().close()


def _write_all(text: str) -> None:
    """Past the buffer of sys.stderr, whose lock a blocked thread would keep."""
    try:
        fd = sys.stderr.fileno()
    except OSError:  # not a file, such as under a test
        sys.stderr.write(text)
        return
    left = text.encode(errors="backslashreplace")
    while left:
        left = left[os.write(fd, left) :]
