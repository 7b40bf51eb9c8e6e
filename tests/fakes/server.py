"""A fake provider: answers by its script and records what it was asked."""

from __future__ import annotations

import asyncio
import time
from http import HTTPStatus
from typing import NoReturn

from msgspec import structs

from tests.fakes.asked import Asked, dialect_of, read
from tests.fakes.connection import Connection, Gone, Head
from tests.fakes.frames import FAKE_STREAMS, Piece, pieces
from tests.fakes.refusals import Refusal, refusal
from tests.fakes.script import Act, Cut, Page, Record, Recorded


class _CutOff(Exception):
    """The answer ends here, and the connection stays."""


class FakeServer:
    """Every dialect at once, each on its own paths. All of it runs on one event loop."""

    def __init__(self) -> None:
        self.acts: list[Act] = [Act()]
        self.pages: dict[str, Page] = {}
        self.record = Record()
        self.n_holding = 0
        self.n_connections = 0
        self.connections: dict[Connection, int] = {}
        self._release = asyncio.Event()
        self._changed = asyncio.Event()

    # The connections.

    def connection(self) -> Connection:
        return Connection(self._serve, self._opened, self._closed)

    def _opened(self, connection: Connection) -> int:
        self.n_connections += 1
        self.connections[connection] = self.n_connections
        self.record.accepted += 1
        self.changed()
        return self.n_connections

    def _closed(self, connection: Connection) -> None:
        self.connections.pop(connection, None)
        self.changed()

    def close_idle(self) -> None:
        """End the connections that carry no request."""
        for connection in list(self.connections):
            if not connection.is_serving:
                connection.transport.close()

    # The test's controls.

    def reset(self) -> None:
        """Forget all requests and acts; end all connections."""
        self.acts = [Act()]
        self.pages = {}
        self.record = Record()
        self.release()
        for connection in list(self.connections):
            connection.transport.abort()

    def release(self) -> None:
        """Let the answers that hold continue."""
        self._release.set()
        self._release = asyncio.Event()

    def changed(self) -> None:
        self.record.open = len(self.connections)
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait_for_change(self) -> None:
        await self._changed.wait()

    # Answering.

    async def _serve(self, connection: Connection, head: Head, body: bytes) -> None:
        seen = Recorded(
            n=len(self.record.requests),
            connection=connection.number,
            method=head.method,
            path=head.path,
            headers=head.headers,
            body=body.decode("utf-8", "replace"),
            arrived_at=time.monotonic(),
        )
        if head.method == "GET":
            page = self.pages.get(head.path, Page(status=404))
            self.record.pages.append(head.path)
            refused = Refusal(status=page.status, headers=page.headers, body=page.body.encode())
            await self._refuse(connection, refused, seen)
            return
        self.record.requests.append(seen)
        self.changed()
        act = self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]
        try:
            await self._answer(connection, head, body, act, seen)
        except _CutOff:
            pass
        except Gone:
            seen.ended = seen.ended or "client_closed"
            raise
        finally:
            seen.ended_at = time.monotonic()
            self.changed()

    async def _answer(
        self, connection: Connection, head: Head, body: bytes, act: Act, seen: Recorded
    ) -> None:
        await self._wait_before(connection, act)
        if act.before_response is not None:
            await self._break(connection, act.before_response, seen)
        answered = _understand(act, head, body)
        if isinstance(answered, Refusal):
            await self._refuse(connection, answered, seen)
        else:
            await self._stream(connection, act, answered, seen)

    async def _wait_before(self, connection: Connection, act: Act) -> None:
        if act.hold_before_response:
            await self._hold(connection)
        await connection.sleep(act.first_delay_s)

    async def _hold(self, connection: Connection) -> None:
        self.n_holding += 1
        self.changed()
        try:
            await connection.wait_until(self._release)
        finally:
            self.n_holding -= 1
            self.changed()

    async def _refuse(self, connection: Connection, refused: Refusal, seen: Recorded) -> None:
        headers = refused.headers | {"content-length": str(len(refused.body))}
        await connection.write(_head(refused.status, headers) + refused.body)
        seen.answered_at = time.monotonic()
        seen.bytes_sent = len(refused.body)
        seen.ended = "complete"

    async def _stream(self, connection: Connection, act: Act, asked: Asked, seen: Recorded) -> None:
        headers = {
            "content-type": FAKE_STREAMS[asked.dialect].content_type,
            "x-request-id": "fake-1",
        }
        headers |= {"transfer-encoding": "chunked"} | act.headers
        if not act.keep_alive:
            headers["connection"] = "close"
        await connection.write(_head(200, headers))
        seen.answered_at = time.monotonic()
        n_chunks = 0
        for piece in pieces(act, asked):
            if piece.kind == "cut":
                await self._break(connection, act.cut, seen)
            if piece.kind == "text":
                await self._pace(connection, act, n_chunks)
                n_chunks += 1
            await self._send(connection, act, piece, seen)
        if act.hold_after_chunks is not None and act.hold_after_chunks >= n_chunks > 0:
            await self._hold(connection)
        await connection.write(b"0\r\n\r\n")
        seen.ended = "complete"
        if not act.keep_alive:
            connection.transport.close()

    async def _pace(self, connection: Connection, act: Act, n_chunks: int) -> None:
        """Wait as *act* wants it before chunk number *n_chunks*."""
        if act.hold_after_chunks == n_chunks:
            await self._hold(connection)
        if act.burst_chunks and n_chunks and n_chunks % act.burst_chunks == 0:
            await connection.sleep(act.burst_pause_s)
        await connection.sleep(act.delay_s)

    async def _send(self, connection: Connection, act: Act, piece: Piece, seen: Recorded) -> None:
        step = act.write_bytes or max(1, len(piece.data))
        for start in range(0, len(piece.data), step):
            part = piece.data[start : start + step]
            room = len(part)
            if act.cut_after_bytes is not None:
                room = max(0, act.cut_after_bytes - seen.bytes_sent)
            part = part[:room]
            if part:
                await connection.write(b"%x\r\n%b\r\n" % (len(part), part))
                seen.bytes_sent += len(part)
                if piece.kind == "text" and seen.first_text_at is None:
                    seen.first_text_at = time.monotonic()
            if act.cut_after_bytes is not None and seen.bytes_sent >= act.cut_after_bytes:
                await self._break(connection, act.cut, seen)
            await connection.sleep(act.byte_delay_s)

    async def _break(self, connection: Connection, how: Cut, seen: Recorded) -> NoReturn:
        """Break the answer off. Raises _CutOff or Gone."""
        if how == "silence":
            await connection.gone.wait()
            raise Gone
        seen.ended = "cut"
        if how == "clean" and seen.answered_at is not None:
            await connection.write(b"0\r\n\r\n")
            raise _CutOff
        if how == "reset":
            connection.reset()
        else:
            connection.transport.close()
        raise Gone


def _understand(act: Act, head: Head, body: bytes) -> Asked | Refusal:
    """What is asked, or why it is not answered."""
    dialect = dialect_of(head.path)
    if dialect is None or head.method != "POST":
        return Refusal(status=404, headers={}, body=b"{}")
    if act.refusal or act.status or act.redirect_to is not None:
        return refusal(dialect, act)
    asked = read(dialect, head.path, body)
    if asked.is_prefill and not act.takes_prefill:
        return refusal(dialect, structs.replace(act, refusal="no_prefill"))
    return asked


def _head(status: int, headers: dict[str, str]) -> bytes:
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Overloaded"
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{k}: {v}" for k, v in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
