"""The thin layer between uvicorn and Flask.

Flask runs in a small pool of threads, only to check a request and to begin its answer. The event
loop drives the answer: no thread waits for it, and a client that leaves is noticed at once.
Questions to the worker, and requests for what the server knows without it, have threads of their
own: nobody else waits for a worker that says nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncGenerator, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flask import Flask

from spillover.edge_server.answers.answer import Answer
from spillover.edge_server.answers.served_models import ServedModels
from spillover.edge_server.config.settings import Settings
from spillover.edge_server.web.connection import ClientGone, Connection, Receive, Send
from spillover.edge_server.web.connections import Connections
from spillover.edge_server.web.driver import ANSWERS_KEY, LOADS_KEY, drive_on_loop, explained
from spillover.edge_server.web.environ import Scope, environ_of, path_of
from spillover.edge_server.web.loop_reader import LoopCalls
from spillover.edge_server.web.origins import Origins
from spillover.edge_server.wire.dialect import Endpoint
from spillover.edge_server.wire.endpoints import ENDPOINTS, error_body_of
from spillover.edge_server.wire.errors import WireError, bad_request, from_exception
from spillover.runtime.errors import SpilloverError

N_THREADS = 16
N_QUESTION_THREADS = 8
N_INFORMATION_THREADS = 2
N_LARGE_THREADS = 2
LARGE_BODY_BYTES = 1 << 16
"""From here on, and when it is compressed, a body is read beside one other such body at most: each
thread that computes makes the event loop wait for the interpreter's lock."""
_QUESTIONS = frozenset(
    {
        "/tokenize",
        "/detokenize",
        "/slots",
        "/apply-template",
        "/v1/route/explain",
        "/v1/messages/count_tokens",
        "/v1/responses/input_tokens",
    }
)
"""Paths whose views wait for the worker's reply."""

_ID = re.compile(r"[\w-]{25,}")
"""An id in a path, by which whoever reads the log could meddle with the answer."""

_log = logging.getLogger(__name__)


class Bridge:
    """An ASGI application around a Flask application."""

    def __init__(
        self,
        app: Flask,
        models: ServedModels,
        settings: Settings,
        connections: Connections,
        endpoints: Sequence[Endpoint] = ENDPOINTS,
    ) -> None:
        self._app = app
        self._models = models
        self._settings = settings
        self._origins = Origins(settings.allowed_origins)
        self._connections = connections
        self._endpoints = endpoints
        self._loop_calls = LoopCalls(asyncio.get_running_loop())
        self._pool = ThreadPoolExecutor(N_THREADS, thread_name_prefix="flask")
        self._questions = ThreadPoolExecutor(N_QUESTION_THREADS, thread_name_prefix="questions")
        self._information = ThreadPoolExecutor(
            N_INFORMATION_THREADS, thread_name_prefix="information"
        )
        self._large = ThreadPoolExecutor(N_LARGE_THREADS, thread_name_prefix="large-bodies")
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """End the streams that are running, each with an error event."""
        self._stopping.set()

    def close(self) -> None:
        for pool in (self._pool, self._questions, self._information, self._large):
            pool.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        protocol = self._connections.of(scope.get("client"))
        error_body = error_body_of(path_of(scope), self._endpoints)
        timeout_s = self._settings.write_timeout_s
        origin = dict(scope["headers"]).get(b"origin", b"").decode("latin-1")
        headers = self._origins.headers(origin or None)
        connection = Connection(scope, send, timeout_s, protocol, error_body, headers)
        start = time.monotonic()
        try:
            await self._answer(connection, receive)
        except asyncio.CancelledError:  # the server has waited long enough for this client
            if protocol is not None:
                protocol.abort()
            await asyncio.sleep(0)  # the protocol learns of it, and takes our end without a word
        finally:
            if _log.isEnabledFor(logging.DEBUG):
                _log.debug("%s %.3f s", _access(connection), time.monotonic() - start)

    async def _answer(self, connection: Connection, receive: Receive) -> None:
        with contextlib.suppress(ClientGone):
            try:
                body = await self._read_body(connection.scope, receive)
            except WireError as error:
                await connection.dismiss(error, receive)
                return
            try:
                await self._serve(connection, receive, body)
            except WireError as error:
                await connection.dismiss(error)

    async def _read_body(self, scope: Scope, receive: Receive) -> bytes:
        if self._connections.is_full:
            raise WireError(503, "too many connections at once", headers={"Retry-After": "1"})
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        if b"transfer-encoding" in headers and b"content-length" in headers:
            raise bad_request("Content-Length and Transfer-Encoding exclude each other: send one")
        if len(length) > 18 or int(length) > self._settings.max_body_bytes:
            raise self._too_large()
        try:
            async with asyncio.timeout(self._settings.body_timeout_s):
                return await self._receive_body(receive)
        except TimeoutError:
            raise WireError(408, "the body arrived too slowly") from None

    async def _receive_body(self, receive: Receive) -> bytes:
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            part = message.get("body", b"")
            size += len(part)
            if size > self._settings.max_body_bytes:
                raise self._too_large()
            parts.append(part)
            if not message.get("more_body"):
                return b"".join(parts)

    def _too_large(self) -> WireError:
        return WireError(413, f"the body has more than {self._settings.max_body_bytes} bytes")

    async def _serve(self, connection: Connection, receive: Receive, body: bytes) -> None:
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            answers: list[Answer[Any]] = []
            loads: list[str] = []

            def call() -> Coroutine[Any, Any, tuple[int, dict[str, str], bytes]]:
                environ = environ_of(connection.scope, body)
                return self._call({**environ, ANSWERS_KEY: answers, LOADS_KEY: loads}, answers)

            response = await call()
            # Once more where the model had to make room meanwhile: not while it is kept here, as
            # it could not leave then, nor come back.
            while loads:
                async with self._loaded(loads.pop(), gone):
                    response = await call()
            status, headers, content = response
            if answers:
                await self._drive(connection, answers[0], gone)
            else:
                await connection.answer(status, headers, content)
        finally:
            gone.cancel()

    async def _call(
        self, environ: dict[str, Any], answers: list[Answer[Any]]
    ) -> tuple[int, dict[str, str], bytes]:
        """Flask's response. WireError when the server stops."""
        pool = self._pool_for(environ)
        call = asyncio.get_running_loop().run_in_executor(pool, self._run_flask, environ)
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((call, stop), return_when=asyncio.FIRST_COMPLETED)
            if call.done():
                return call.result()
            call.add_done_callback(lambda _: _abandon(call, answers))
            raise _shutting_down()
        finally:
            stop.cancel()

    @contextlib.asynccontextmanager
    async def _loaded(self, name: str, gone: asyncio.Future[None]) -> AsyncGenerator[None]:
        """Load the model, without a thread that waits, and keep it while the block runs. Raises
        WireError, ClientGone."""
        model = self._models.known(name)
        if model is None or model.hosted is None:
            raise WireError(404, f"there is no model {name[:100]!r} any more", "model")
        loop, settled = asyncio.get_running_loop(), asyncio.Event()

        def settle() -> None:
            with contextlib.suppress(RuntimeError):  # the server has ended
                loop.call_soon_threadsafe(settled.set)

        stop = asyncio.ensure_future(self._stopping.wait())
        wait = asyncio.ensure_future(settled.wait())
        try:
            with model.hosted.loading(settle) as use:
                waits: set[asyncio.Future[Any]] = {wait, gone, stop}
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    raise ClientGone
                if not wait.done():
                    raise _shutting_down()
                if use.error is not None:
                    raise use.error
                yield
        except SpilloverError as error:
            raise from_exception(error) from error
        finally:
            stop.cancel()
            wait.cancel()

    def _pool_for(self, environ: dict[str, Any]) -> ThreadPoolExecutor:
        path = environ["PATH_INFO"]
        if path in _QUESTIONS or path.endswith(":countTokens"):
            return self._questions
        if environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            return self._information
        is_large = int(environ["CONTENT_LENGTH"]) >= LARGE_BODY_BYTES
        return self._large if is_large or "HTTP_CONTENT_ENCODING" in environ else self._pool

    def _run_flask(self, environ: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
        """In a pool thread: the view's response; empty when it left an answer to drive."""
        head: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], info: Any = None) -> Any:
            head[:] = [int(status.split(" ", 1)[0]), dict(headers)]

        body: Iterable[bytes] = self._app.wsgi_app(environ, start_response)
        return head[0], head[1], b"".join(body)

    async def _drive(
        self, connection: Connection, answer: Answer[Any], gone: asyncio.Future[None]
    ) -> None:
        """Send the answer until it ends, the client leaves or the server stops."""
        driving = drive_on_loop(answer, connection, self._loop_calls, self._settings.keep_alive_s)
        task = asyncio.ensure_future(driving)
        stop = asyncio.ensure_future(self._stopping.wait())
        waits: set[asyncio.Future[Any]] = {task, gone, stop}
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
            elif not gone.done():
                task.cancel()
                await connection.end_early(answer, _shutting_down())
        except ClientGone:
            raise
        except Exception as error:
            await connection.end_early(answer, explained(error))
        finally:
            task.cancel()
            stop.cancel()
            answer.leave()


def _access(connection: Connection) -> str:
    """Who asked for what, and the status of the response (0: none was sent)."""
    scope = connection.scope
    client = (scope.get("client") or ["-"])[0]
    path = _ID.sub("…", scope.get("raw_path", b"").decode("ascii", "replace"))[:200]
    return f"{client} {scope['method']} {path} {connection.status} {connection.request_id}"


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _shutting_down() -> WireError:
    return WireError(503, "the server is shutting down")


def _abandon(call: asyncio.Future[Any], answers: list[Answer[Any]]) -> None:
    """Drop an answer that nobody waits for any more."""
    if not call.cancelled():
        call.exception()  # mark it as retrieved
    for answer in answers:
        answer.leave()
