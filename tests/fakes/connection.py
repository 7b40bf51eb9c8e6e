"""One connection of a fake: reads requests, writes responses, knows when its peer is gone."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import TypeAlias, cast

from msgspec import Struct

MAX_HEAD_BYTES = 65_536


class Gone(Exception):
    """The peer has closed the connection."""


class Head(Struct, frozen=True, kw_only=True):
    """A request without its body; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]


Serve: TypeAlias = Callable[["Connection", Head, bytes], Awaitable[None]]


class Connection(asyncio.Protocol):
    """Hands each request to *serve*; *on_open* gives it its number."""

    def __init__(
        self,
        serve: Serve,
        on_open: Callable[[Connection], int],
        on_close: Callable[[Connection], None],
    ) -> None:
        self._serve, self._on_open, self._on_close = serve, on_open, on_close
        self.number = 0
        self._buffer = bytearray()
        self._news = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self.gone = asyncio.Event()
        self.transport: asyncio.Transport
        self.is_serving = False
        self._task: asyncio.Task[None]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        found = self.transport.get_extra_info("socket")
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.number = self._on_open(self)
        self._task = asyncio.ensure_future(self._run())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._news.set()

    def eof_received(self) -> bool:
        self._lose()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose()
        self._on_close(self)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _lose(self) -> None:
        for event in (self.gone, self._news, self._writable):
            event.set()

    async def _run(self) -> None:
        with contextlib.suppress(Gone):
            while not self.gone.is_set():
                head = await self._read_head()
                body = await self._read(int(head.headers.get("content-length", 0)))
                self.is_serving = True
                await self._serve(self, head, body)
                self.is_serving = False
        self.transport.close()

    async def _read_head(self) -> Head:
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > MAX_HEAD_BYTES:
                raise Gone
            await self._more()
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        method, path, _ = lines[0].split(" ")
        pairs = (line.split(":", 1) for line in lines[1:])
        headers = {name.strip().lower(): value.strip() for name, value in pairs}
        return Head(method=method, path=path, headers=headers)

    async def _read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            await self._more()
        body = bytes(self._buffer[:size])
        del self._buffer[:size]
        return body

    async def _more(self) -> None:
        if self.gone.is_set():
            raise Gone
        self._news.clear()
        await self._news.wait()

    async def write(self, data: bytes) -> None:
        """Send *data*, as fast as the peer takes it. Raises Gone."""
        await self._writable.wait()
        if self.gone.is_set():
            raise Gone
        self.transport.write(data)
        await asyncio.sleep(0)

    async def sleep(self, seconds: float) -> None:
        """Wait, but not for a peer that is gone. Raises Gone."""
        if seconds > 0:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.gone.wait(), seconds)
        if self.gone.is_set():
            raise Gone

    async def wait_until(self, event: asyncio.Event) -> None:
        """Wait for *event*, but not for a peer that is gone. Raises Gone."""
        waits = [asyncio.ensure_future(e.wait()) for e in (event, self.gone)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if self.gone.is_set():
            raise Gone

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        found = self.transport.get_extra_info("socket")
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()
