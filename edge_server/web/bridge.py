"""The thin layer between uvicorn and Flask.

Flask runs in a small pool of threads, and only to check a request and to begin its answer. The
answer itself is driven on the event loop: no thread waits for it, and a client that leaves in
silence is noticed at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flask import Flask

from spillover.edge_server.config.settings import Settings
from spillover.edge_server.resume.answer_log import CursorTooOld
from spillover.edge_server.resume.viewer import OPENING, Viewer
from spillover.edge_server.web import sse
from spillover.edge_server.web.connection import ClientGone, Connection, Receive, Scope, Send, Wire
from spillover.edge_server.web.environ import environ_of
from spillover.edge_server.web.handover import ENVIRON_KEY, STREAM_HEADERS, Handover
from spillover.edge_server.web.loop_reader import LoopCalls, LoopReader
from spillover.edge_server.wire.errors import WireError, from_exception
from spillover.edge_server.wire.shapes import Encoder
from spillover.runtime.defects import log_defect

_LOG = logging.getLogger(__name__)

N_THREADS = 16
MAX_WAITING_CALLS = 256
EVENTS_AT_ONCE = 256
"""Encoded before others have their turn."""


class Bridge:
    """An ASGI application around a Flask application."""

    def __init__(
        self,
        app: Flask,
        settings: Settings,
        wire_of: Callable[[Scope], Wire | None],
        n_connections: Callable[[], int],
    ) -> None:
        self._app = app
        self._settings = settings
        self._wire_of = wire_of
        self._n_connections = n_connections
        self._loop_calls = LoopCalls(asyncio.get_running_loop())
        self._pool = ThreadPoolExecutor(N_THREADS, thread_name_prefix="flask")
        self._n_calls = 0
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End the streams that still run: each gets an error event."""
        self._stopping.set()

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        wire = self._wire_of(scope)
        connection = Connection(scope, send, self._settings.write_timeout_s, wire)
        with contextlib.suppress(ClientGone):
            try:
                if self._n_connections() > self._settings.max_connections:
                    raise _too_many("connections")
                body = await self._read_body(scope, receive)
                await self._serve(connection, receive, body)
            except WireError as error:
                await connection.refuse(error)

    async def _read_body(self, scope: Scope, receive: Receive) -> bytes:
        names = [name for name, _ in scope["headers"]]
        if b"transfer-encoding" in names and b"content-length" in names:
            raise WireError(400, "invalid_request_error", "both lengths are given: send one")
        try:
            return await asyncio.wait_for(
                self._receive_body(receive), self._settings.body_timeout_s
            )
        except TimeoutError:
            raise WireError(408, "invalid_request_error", "the body came too slowly") from None

    async def _receive_body(self, receive: Receive) -> bytes:
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            part = message.get("body", b"")
            size += len(part)
            if size > self._settings.max_body_bytes:
                limit = self._settings.max_body_bytes
                raise WireError(413, "invalid_request_error", f"the body exceeds {limit} bytes")
            parts.append(part)
            if not message.get("more_body"):
                return b"".join(parts)

    async def _serve(self, connection: Connection, receive: Receive, body: bytes) -> None:
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            handed_over: list[Handover | Viewer] = []
            environ = {**environ_of(connection.scope, body), ENVIRON_KEY: handed_over}
            status, headers, content = await self._call(environ, handed_over)
            if handed_over:
                await self._drive(connection, handed_over[0], gone)
            else:
                await connection.answer(status, headers, content)
        finally:
            gone.cancel()

    async def _call(
        self, environ: dict[str, Any], handed_over: list[Handover | Viewer]
    ) -> tuple[int, dict[str, str], bytes]:
        """What Flask says; WireError when it has no time, or none is left."""
        if self._n_calls >= MAX_WAITING_CALLS:
            raise _too_many("requests")
        self._n_calls += 1
        call = asyncio.get_running_loop().run_in_executor(self._pool, self._run_flask, environ)
        call.add_done_callback(self._count_down)
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((call, stop), return_when=asyncio.FIRST_COMPLETED)
            if call.done():
                return call.result()
            call.add_done_callback(lambda _: _abandon(call, handed_over))
            raise WireError(503, "unavailable_error", "the server is shutting down")
        finally:
            stop.cancel()

    def _count_down(self, _: asyncio.Future[Any]) -> None:
        self._n_calls -= 1

    def _run_flask(self, environ: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        """In a pool thread: the view's answer; empty when it was handed over."""
        head: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], info: Any = None) -> Any:
            head[:] = [int(status.split(" ", 1)[0]), dict(headers)]

        body: Iterable[bytes] = self._app.wsgi_app(environ, start_response)
        return head[0], head[1], b"".join(body)

    async def _drive(
        self, connection: Connection, answer: Handover | Viewer, gone: asyncio.Future[None]
    ) -> None:
        """Follow the generation until it ends, the client leaves or the server stops."""
        voice: Encoder | Viewer | None
        if isinstance(answer, Viewer):
            voice, work = answer, self._follow(connection, answer)
        else:
            voice = answer.encoder
            work = (self._stream if voice else self._collect)(connection, answer)
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._stopping.wait())
        waits: set[asyncio.Future[Any]] = {task, gone, stop}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
            elif not gone.done():
                task.cancel()
                error = WireError(503, "unavailable_error", "the server is shutting down")
                await connection.end_early(voice, error)
        except ClientGone:
            raise
        except Exception as error:
            log_defect(_LOG, "an answer broke off", error)
            await connection.end_early(voice, from_exception(error))
        finally:
            task.cancel()
            stop.cancel()
            answer.leave()

    async def _stream(self, connection: Connection, answer: Handover) -> None:
        encoder = answer.encoder
        assert encoder is not None
        log, silence_s = answer.generation.log, self._settings.keep_alive_s
        reader = LoopReader(log, self._loop_calls, silence_s)
        try:
            await connection.start(200, STREAM_HEADERS)
            await connection.write(encoder.start())
            while True:
                news = await reader.next()
                if news is None:
                    await connection.write(sse.KEEP_ALIVE)
                    continue
                events, ended = news
                chunk = b""
                for start in range(0, len(events), EVENTS_AT_ONCE):
                    if chunk:
                        await connection.write(chunk)
                    some = events[start : start + EVENTS_AT_ONCE]
                    chunk = b"".join(encoder.encode(event) for event in some)
                if ended:
                    await connection.finish(chunk + encoder.end())
                    return
                if chunk:
                    await connection.write(chunk)
        finally:
            reader.close()

    async def _follow(self, connection: Connection, viewer: Viewer) -> None:
        silence_s = self._settings.keep_alive_s
        reader = LoopReader(viewer.log, self._loop_calls, silence_s, viewer.after)
        try:
            await connection.start(200, {**STREAM_HEADERS, **viewer.headers})
            viewer.was_told = True
            await connection.write(OPENING)
            while True:
                news = await reader.next()
                if news is None:
                    await connection.write(sse.COMMENT)
                    continue
                events, ended = news
                chunk = viewer.encode(events)
                if ended:
                    await connection.finish(chunk)
                    return
                await connection.write(chunk)
        except CursorTooOld:
            await connection.finish(viewer.too_slow())
        finally:
            reader.close()

    async def _collect(self, connection: Connection, answer: Handover) -> None:
        assert answer.whole is not None
        reader = LoopReader(answer.generation.log, self._loop_calls, None)
        try:
            ended = False
            while not ended:
                events, ended = await reader.next() or ([], False)
                for event in events:
                    answer.whole.add(event)
            status, body, headers = answer.result()
            await connection.answer(status, headers, body)
        finally:
            reader.close()


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _too_many(what: str) -> WireError:
    error = WireError(503, "unavailable_error", f"too many {what} at once")
    error.headers["Retry-After"] = "1"
    return error


def _abandon(call: asyncio.Future[Any], handed_over: list[Handover | Viewer]) -> None:
    """Nobody waits for this answer any more."""
    if not call.cancelled():
        call.exception()  # so that it counts as seen
    for answer in handed_over:
        answer.leave()
