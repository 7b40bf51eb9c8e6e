"""Server-sent events, as WHATWG's HTML standard defines them.

Works on bytes: an event ends at a line end, and no line end lies inside a UTF-8 character.
"""

from __future__ import annotations

from spillover.cloud_fallback.http.errors import Malformed
from spillover.cloud_fallback.http.frame import Frame

MAX_EVENT_BYTES = 1024 * 1024
"""A usual event has a few hundred bytes; one with a whole tool call may have many thousand."""
TAIL_BYTES = 8 * 1024

_BOM = b"\xef\xbb\xbf"
_FIELDS = frozenset((b"data", b"event", b"id", b"retry"))


class ServerSentEvents:
    """See Frames."""

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._line = bytearray()
        """A line that has no end yet."""
        self._data: list[bytes] = []
        self._name = b""
        self._n_event_bytes = 0
        self._is_first_line = True
        self._ended_in_cr = False
        self._tail = bytearray()

    @property
    def tail(self) -> bytes:
        return bytes((self._tail + self._line)[-TAIL_BYTES:])

    def feed(self, data: bytes) -> list[Frame]:
        if not data:
            return []
        if self._ended_in_cr:
            # A \r ends a line at once; the \n of a \r\n may come with the next bytes.
            data = data.removeprefix(b"\n")
        self._ended_in_cr = data.endswith(b"\r")
        frames: list[Frame] = []
        # bytes.splitlines splits at \n, \r and \r\n only; str.splitlines splits at U+2028 too.
        for line in data.splitlines(keepends=True):
            if line[-1] not in b"\r\n":
                self._line += line
                self._bound(len(self._line))
                break
            self._take(self._whole(line.rstrip(b"\r\n")), frames)
        return frames

    def end(self) -> list[Frame]:
        return self._dispatch()

    def _whole(self, end_of_line: bytes) -> bytes:
        if self._line:
            end_of_line = bytes(self._line) + end_of_line
            self._line.clear()
        if self._is_first_line:
            self._is_first_line = False
            return end_of_line.removeprefix(_BOM)
        return end_of_line

    def _take(self, line: bytes, frames: list[Frame]) -> None:
        if not line:
            frames += self._dispatch()
            return
        field, _, value = line.partition(b":")
        if field == b"data":
            self._n_event_bytes += len(line)
            self._bound(0)
            self._data.append(value.removeprefix(b" "))
        elif field == b"event":
            self._name = value.removeprefix(b" ")
        elif field and field not in _FIELDS:
            self._tail += line + b"\n"
            del self._tail[:-TAIL_BYTES]

    def _dispatch(self) -> list[Frame]:
        data, name = self._data, self._name
        self._data, self._name, self._n_event_bytes = [], b"", 0
        if not data:
            return []
        self._tail.clear()
        return [Frame(name=name.decode("utf-8", "replace"), data=b"\n".join(data))]

    def _bound(self, n_more_bytes: int) -> None:
        if self._n_event_bytes + n_more_bytes > self._max_event_bytes:
            raise Malformed(f"an event has more than {self._max_event_bytes} bytes")
