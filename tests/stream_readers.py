"""Two readers of our streams, as clients have them: one that takes every blank line for the end of
an event and wants JSON in each, and one that looks at lines with data only. They must read the
same. And what holds for all chunks of one answer."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx

DONE = "[DONE]"


def strict(body: bytes) -> list[Any]:
    """What a reader gets that dispatches at every blank line, as Go's SDK of OpenAI does. What no
    blank line ends was cut off."""
    found: list[Any] = []
    data: list[str] | None = None
    *lines, _cut = body.decode().split("\n")
    for line in lines:
        if line:
            if line.startswith("data:"):
                data = [*(data or []), line[5:].removeprefix(" ")]
            continue
        assert data is not None, f"a blank line without data before it, after {found[-1:]}"
        assert DONE not in found, "something follows [DONE]"
        text = "\n".join(data)
        found.append(DONE if text == DONE else json.loads(text))
        data = None
    return found


def lenient(body: bytes) -> list[Any]:
    """What a reader gets that splits the text into lines, at any line end of Unicode, and knows no
    events."""
    whole = body[: body.rfind(b"\n\n") + 2].decode()
    texts = [line[5:].strip() for line in whole.splitlines() if line.startswith("data:")]
    return [DONE if text == DONE else json.loads(text) for text in texts]


def check(body: bytes, asked: Any = None) -> None:
    """Read *body*, the answer to *asked*, with both; AssertionError or ValueError if one fails."""
    found = strict(body)
    assert lenient(body) == found
    chunks = [each for each in found if isinstance(each, dict) and "choices" in each]
    if chunks:
        check_chunks(chunks)
    if found[-1:] == [DONE] and isinstance(asked, dict) and "error" not in str(found[-2:]):
        wanted = bool((asked.get("stream_options") or {}).get("include_usage"))
        n_usages = sum(chunk.get("usage") is not None for chunk in chunks)
        assert n_usages == wanted, f"{n_usages} chunks with usage"
    numbers = [each["sequence_number"] for each in found if "sequence_number" in each]
    assert numbers == [*range(numbers[0], numbers[0] + len(numbers))] if numbers else True


def check_chunks(chunks: list[dict[str, Any]]) -> None:
    """One id, one object and one time for all; the role of each choice once, and no null name."""
    for name in ("id", "object", "created"):
        assert len({chunk[name] for chunk in chunks}) == 1, f"chunks differ in {name}"
    roles: Counter[int] = Counter()
    for chunk in chunks:
        for choice in chunk["choices"]:
            delta = choice.get("delta", {})
            roles[choice["index"]] += "role" in delta
            assert delta.get("name", "") is not None
            for call in delta.get("tool_calls", ()):
                assert call["function"].get("name", "") is not None
    assert all(n <= 1 for n in roles.values()), f"roles: {roles}"


def check_lines(body: bytes) -> None:
    """A JSON object in each line; only the last one is done."""
    objects = [json.loads(line) for line in body[: body.rfind(b"\n") + 1].splitlines()]
    assert not any(each.get("done") for each in objects[:-1])


_READERS: dict[str, Callable[[bytes, Any], None]] = {
    "text/event-stream": check,
    "application/x-ndjson": lambda body, _asked: check_lines(body),
}


class Watched(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A stream that is read again by the readers when its client has closed it."""

    def __init__(self, stream: Any, read: Callable[[bytes], None]) -> None:
        self._stream = stream
        self._read: Callable[[bytes], None] | None = read
        self._seen: list[bytes] = []

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            self._seen.append(chunk)
            yield chunk

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            self._seen.append(chunk)
            yield chunk

    def close(self) -> None:
        self._stream.close()
        self._ended()

    async def aclose(self) -> None:
        await self._stream.aclose()
        self._ended()

    def _ended(self) -> None:
        read, self._read = self._read, None
        if read is not None:
            read(b"".join(self._seen))


class StreamWatch:
    """Looks at every stream that httpx receives. Any thread may receive one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._broken: list[str] = []
        self.n_read = 0

    def over(self, request: httpx.Request, response: httpx.Response) -> None:
        """Watch the stream of *response*, if it is one."""
        kind = response.headers.get("Content-Type", "").partition(";")[0]
        if kind not in _READERS or response.status_code != 200:
            return
        asked = _json_of(request)
        response.stream = Watched(response.stream, lambda body: self._check(kind, body, asked))

    def _check(self, kind: str, body: bytes, asked: Any) -> None:
        try:
            _READERS[kind](body, asked)
        except (AssertionError, ValueError, KeyError) as error:
            with self._lock:
                self._broken.append(f"{error!r} in {body[-2000:]!r}")
        with self._lock:
            self.n_read += 1

    def take_broken(self) -> list[str]:
        """What was wrong with the streams that have ended since the last call."""
        with self._lock:
            broken, self._broken = self._broken, []
        return broken


def _json_of(request: httpx.Request) -> Any:
    try:
        return json.loads(request.content)
    except (httpx.RequestNotRead, ValueError):
        return None
