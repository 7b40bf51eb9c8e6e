"""Writes commands to a worker without waiting until it reads them."""

from __future__ import annotations

import queue
import threading
from typing import IO


class CommandWriter:
    """Writes frames to *stream* in its own thread, in order, and closes it at the end. Frames for
    a worker that has ended are dropped."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._frames: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="worker-writer", daemon=True)

    def start(self) -> None:
        """Start the thread; RuntimeError when the system has none left."""
        self._thread.start()

    def write(self, frame: bytes) -> None:
        """Returns at once, however slow the worker is."""
        self._frames.put(frame)

    def close(self) -> None:
        """Close the stream once all frames are written."""
        self._frames.put(None)

    def _run(self) -> None:
        while (frame := self._frames.get()) is not None:
            try:
                _write_all(self._stream, frame)
            except (OSError, ValueError):  # the worker, or its pipe, is gone
                continue
        self._stream.close()


def _write_all(stream: IO[bytes], frame: bytes) -> None:
    view = memoryview(frame)
    while view:
        view = view[stream.write(view) :]
