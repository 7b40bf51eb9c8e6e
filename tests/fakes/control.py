"""How a test controls a fake: JSON over HTTP, on a separate port."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable

import msgspec

from tests.fakes.connection import Connection, Head
from tests.fakes.script import Act, Page, Until
from tests.fakes.server import FakeServer


class Control:
    """POST /script, /pages, /wait, /release, /listen, /close_idle, /reset; GET /record."""

    def __init__(self, fake: FakeServer, tls: ssl.SSLContext | None) -> None:
        self._fake = fake
        self._tls = tls
        self._listener: asyncio.Server | None = None
        self.port = 0
        self._verbs: dict[str, Callable[[bytes], Awaitable[object]]] = {
            "/script": self._script,
            "/pages": self._pages,
            "/record": self._record,
            "/wait": self._wait,
            "/release": self._release,
            "/listen": self._listen,
            "/close_idle": self._close_idle,
            "/reset": self._reset,
        }

    def connection(self) -> Connection:
        return Connection(self._serve, lambda _: 0, lambda _: None)

    async def _serve(self, connection: Connection, head: Head, body: bytes) -> None:
        answer = msgspec.json.encode(await self._verbs[head.path](body))
        await connection.write(
            b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(answer), answer)
        )

    async def open(self) -> None:
        """Take connections, at the same port as before."""
        if self._listener is None:
            loop = asyncio.get_running_loop()
            self._listener = await loop.create_server(
                self._fake.connection, "127.0.0.1", self.port, ssl=self._tls, backlog=512
            )
            self.port = self._listener.sockets[0].getsockname()[1]

    async def _listen(self, body: bytes) -> object:
        """false: refuse connections and end those that are open."""
        if msgspec.json.decode(body, type=bool):
            await self.open()
        elif self._listener is not None:
            self._listener.close()
            self._listener = None
            for connection in list(self._fake.connections):
                connection.transport.abort()
        return None

    async def _script(self, body: bytes) -> object:
        self._fake.acts = msgspec.json.decode(body, type=list[Act])
        return None

    async def _pages(self, body: bytes) -> object:
        self._fake.pages = msgspec.json.decode(body, type=dict[str, Page])
        return None

    async def _record(self, body: bytes) -> object:
        return self._fake.record

    async def _release(self, body: bytes) -> object:
        self._fake.release()
        return None

    async def _close_idle(self, body: bytes) -> object:
        self._fake.close_idle()
        return None

    async def _reset(self, body: bytes) -> object:
        await self.open()
        self._fake.reset()
        return None

    async def _wait(self, body: bytes) -> object:
        """Whether what is waited for came true in time."""
        until = msgspec.json.decode(body, type=Until)
        try:
            async with asyncio.timeout(until.timeout_s):
                while not self._holds(until):
                    await self._fake.wait_for_change()
        except TimeoutError:
            return False
        return True

    def _holds(self, until: Until) -> bool:
        record = self._fake.record
        n_ended = sum(request.ended_at is not None for request in record.requests)
        return (
            (until.accepted is None or record.accepted >= until.accepted)
            and (until.open is None or record.open == until.open)
            and (until.requests is None or len(record.requests) >= until.requests)
            and (until.ended is None or n_ended >= until.ended)
            and (until.holding is None or self._fake.n_holding >= until.holding)
        )
