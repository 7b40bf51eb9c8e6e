"""The thin layer between uvicorn and Flask.

Flask runs in a small pool of threads, and only to check a request and to begin its answer. The
answer itself is driven on the event loop: no thread waits for it, and a client that leaves in
silence is noticed at once.
"""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias
from urllib.parse import unquote_to_bytes

from flask import Flask

from spillover.edge_server import sse
from spillover.edge_server.handover import ENVIRON_KEY, STREAM_HEADERS, Handover
from spillover.edge_server.settings import Settings
from spillover.edge_server.stream_log import LoopReader
from spillover.edge_server.wire.errors import WireError, body_of
from spillover.edge_server.wire.streams import StreamEncoder

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

N_THREADS = 16
MAX_WAITING_CALLS = 256
BODY_TIMEOUT_S = 30.0


class ClientGone(Exception):
    """The client has closed its connection, or takes no bytes."""


class Bridge:
    """An ASGI application around a Flask application."""

    def __init__(self, app: Flask, settings: Settings, abort: Callable[[Scope], None]) -> None:
        self._app = app
        self._settings = settings
        self._abort = abort
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
        connection = Connection(scope, send, self._settings.write_timeout_s, self._abort)
        try:
            body = await self._read_body(scope, receive)
            await self._serve(connection, receive, body)
        except WireError as error:
            headers = {"Content-Type": "application/json", "Connection": "close", **error.headers}
            await connection.answer(error.status, headers, body_of(error))
        except ClientGone:
            return

    async def _read_body(self, scope: Scope, receive: Receive) -> bytes:
        names = [name for name, _ in scope["headers"]]
        if b"transfer-encoding" in names and b"content-length" in names:
            raise WireError(400, "invalid_request_error", "both lengths are given: send one")
        try:
            return await asyncio.wait_for(self._receive_body(receive), BODY_TIMEOUT_S)
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
            environ = _environ(connection.scope, body)
            status, headers, content = await self._call(environ)
            answer: Handover | None = environ.get(ENVIRON_KEY)
            if answer is None:
                await connection.answer(status, headers, content)
            else:
                await self._drive(connection, answer, gone)
        finally:
            gone.cancel()

    async def _call(self, environ: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        if self._n_calls >= MAX_WAITING_CALLS:
            error = WireError(503, "unavailable_error", "too many requests at once")
            error.headers["Retry-After"] = "1"
            raise error
        self._n_calls += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._pool, self._run_flask, environ)
        finally:
            self._n_calls -= 1

    def _run_flask(self, environ: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        """In a pool thread: the view's answer, or only its head when it was handed over."""
        head: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], info: Any = None) -> Any:
            head[:] = [int(status.split(" ", 1)[0]), dict(headers)]

        body: Iterable[bytes] = self._app.wsgi_app(environ, start_response)
        content = b"" if ENVIRON_KEY in environ else b"".join(body)
        return head[0], head[1], content

    async def _drive(
        self, connection: Connection, answer: Handover, gone: asyncio.Future[None]
    ) -> None:
        """Follow the generation until it ends, the client leaves or the server stops."""
        work = self._stream if answer.encoder else self._collect
        task = asyncio.ensure_future(work(connection, answer))
        stop = asyncio.ensure_future(self._stopping.wait())
        waits: set[asyncio.Future[Any]] = {task, gone, stop}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if not task.done() and not gone.done():
                task.cancel()
                await connection.end_early(answer.encoder)
            elif task.done():
                task.result()
        finally:
            task.cancel()
            stop.cancel()
            answer.generation.cancellation.cancel()

    async def _stream(self, connection: Connection, answer: Handover) -> None:
        encoder = answer.encoder
        assert encoder is not None
        reader = LoopReader(answer.generation.log)
        try:
            await connection.start(200, STREAM_HEADERS)
            await connection.write(encoder.start())
            while True:
                news = await reader.next(self._settings.keep_alive_s)
                if news is None:
                    await connection.write(sse.KEEP_ALIVE)
                    continue
                events, ended = news
                chunk = b"".join(encoder.encode(event) for event in events)
                if ended:
                    await connection.finish(chunk + encoder.end())
                    return
                if chunk:
                    await connection.write(chunk)
        finally:
            reader.close()

    async def _collect(self, connection: Connection, answer: Handover) -> None:
        assert answer.whole is not None
        reader = LoopReader(answer.generation.log)
        try:
            ended = False
            while not ended:
                events, ended = await reader.next(None) or ([], False)
                for event in events:
                    answer.whole.add(event)
            status, body, headers = answer.result()
            await connection.answer(status, headers, body)
        finally:
            reader.close()


class Connection:
    """One response on its way out; a client that takes no bytes in time is cut off."""

    def __init__(
        self, scope: Scope, send: Send, timeout_s: float, abort: Callable[[Scope], None]
    ) -> None:
        self.scope = scope
        self._send_raw = send
        self._timeout_s = timeout_s
        self._abort = abort
        self._started = False

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._send_raw(message)
        except TimeoutError:
            self._abort(self.scope)
            raise ClientGone from None

    async def start(self, status: int, headers: dict[str, str]) -> None:
        self._started = True
        pairs = [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})

    async def write(self, chunk: bytes) -> None:
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def finish(self, chunk: bytes) -> None:
        await self._send({"type": "http.response.body", "body": chunk, "more_body": False})

    async def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        """A whole response."""
        await self.start(status, {**headers, "Content-Length": str(len(body))})
        await self.finish(b"" if self.scope["method"] == "HEAD" else body)

    async def end_early(self, encoder: StreamEncoder | None) -> None:
        """The server stops: say so in the way that is still open."""
        error = WireError(503, "unavailable_error", "the server is shutting down")
        if encoder is not None and self._started:
            await self.finish(encoder.fail(error))
        else:
            await self.answer(503, {"Content-Type": "application/json"}, body_of(error))


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _environ(scope: Scope, body: bytes) -> dict[str, Any]:
    """A WSGI environment (PEP 3333) of an ASGI scope."""
    server = scope.get("server") or ("127.0.0.1", 0)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(scope["raw_path"].split(b"?")[0]).decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "REMOTE_ADDR": (scope.get("client") or ("",))[0],
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }
    for raw_name, raw_value in scope["headers"]:
        name = raw_name.decode("latin-1").upper().replace("-", "_")
        if name not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            name = f"HTTP_{name}"
        value = raw_value.decode("latin-1")
        environ[name] = f"{environ[name]},{value}" if name in environ else value
    environ["CONTENT_LENGTH"] = str(len(body))
    return environ
