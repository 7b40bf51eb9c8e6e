"""The way to a worker: nobody who has something to say to it waits until it listens."""

from __future__ import annotations

import queue
import threading
from typing import IO


class CommandWriter:
    """Writes frames to *stream* in a thread of its own, in order, and closes it in the end. What
    a worker that is gone does not take is dropped."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._frames: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="worker-writer", daemon=True)

    def start(self) -> None:
        """Begin to write; RuntimeError when the system gives no thread."""
        self._thread.start()

    def write(self, frame: bytes) -> None:
        """Returns at once, however long the worker takes."""
        self._frames.put(frame)

    def close(self) -> None:
        """Nothing more comes; what is left is still written."""
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
