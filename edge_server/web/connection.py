"""One response on its way out."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, TypeAlias

from spillover.edge_server.answers.answer import Answer
from spillover.edge_server.web.environ import Scope
from spillover.edge_server.web.h11_protocol import HardenedProtocol
from spillover.edge_server.wire.dialect import ErrorBody
from spillover.edge_server.wire.errors import WireError

Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]


LINGER_S = 5.0
"""For which the body of a refused request is read."""

PIECE_BYTES = 16 * 1024
"""Written at a time, so that a slow client is not taken for one that takes no bytes."""


_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


class ClientGone(Exception):
    """The client has closed its connection, or takes no bytes."""


class Connection:
    """One response on its way out, with *headers* in any case; a client that takes no bytes for
    *timeout_s* is cut off."""

    def __init__(
        self,
        scope: Scope,
        send: Send,
        timeout_s: float,
        protocol: HardenedProtocol | None,
        error_body: ErrorBody,
        headers: Mapping[str, str],
    ) -> None:
        self.scope = scope
        self._send_raw = send
        self._timeout_s = timeout_s
        self._protocol = protocol
        self._error_body = error_body
        self.status = 0
        """Of the response; 0 before it has begun."""
        self.request_id = _request_id(scope)
        """The client's, or a new one: in the response's head and in the log."""
        # Under both names that clients look it up by: OpenAI's, and Anthropic's.
        ids = {"X-Request-Id": self.request_id, "Request-Id": self.request_id}
        self._headers = {**headers, **ids}
        # HTTP/1.0 has no chunks: uvicorn marks the end by closing the connection.
        self._is_chunked = scope["http_version"] == "1.1" and scope["method"] != "HEAD"

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._send_raw(message)
        except TimeoutError:
            if self._protocol is not None:
                self._protocol.abort()
            raise ClientGone from None

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the head; write() and finish() send the body."""
        self.status = status
        headers = {**headers, **self._headers}
        pairs = [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})

    async def write(self, chunk: bytes) -> None:
        """Send a part of a stream; waits only while the client takes no more."""
        for piece in _pieces(chunk):
            await self._write(piece)

    async def _write(self, piece: bytes) -> None:
        protocol = self._protocol
        if piece and protocol is not None and self._is_chunked and protocol.write_chunk(piece):
            return
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def finish(self, chunk: bytes) -> None:
        *pieces, last = _pieces(chunk)
        for piece in pieces:
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        await self._send({"type": "http.response.body", "body": last, "more_body": False})

    async def answer(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Send a whole response."""
        is_head = self.scope["method"] == "HEAD"
        if status != 204 and not is_head:  # a 204 must not have a length
            headers = {**headers, "Content-Length": str(len(body))}
        await self.start(status, headers)
        await self.finish(b"" if is_head else body)

    async def refuse(self, error: WireError) -> None:
        """Send an error as a whole response."""
        headers = {"Content-Type": "application/json", **error.headers}
        await self.answer(error.status, headers, self._error_body(error))

    async def dismiss(self, error: WireError, receive: Receive | None = None) -> None:
        """Send an error as a whole response, and close the connection. With *receive*, what the
        client still sends is taken first, for a while: a socket that is closed with unread bytes
        is reset, and then few clients see the response."""
        body = self._error_body(error)
        headers = {"Content-Type": "application/json", "Connection": "close", **error.headers}
        await self.start(error.status, {**headers, "Content-Length": str(len(body))})
        if receive is not None:
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
            await _drop(receive)
            body = b""
        await self.finish(body)

    async def end_early(self, answer: Answer[Any], error: WireError) -> None:
        """Say that *answer* cannot go on, in the way that is still open."""
        if not self.status:
            await self.refuse(error)
        elif answer.is_stream:
            await self.finish(answer.fail(error))


def _request_id(scope: Scope) -> str:
    asked = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
    return asked if _REQUEST_ID.fullmatch(asked) else f"req_{secrets.token_hex(12)}"


async def _drop(receive: Receive) -> None:
    """Take the rest of a body, as far as it comes in time."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            while (await receive()).get("more_body"):
                pass


def _pieces(chunk: bytes) -> list[bytes]:
    """*chunk* in pieces; an empty one in one."""
    if len(chunk) <= PIECE_BYTES:
        return [chunk]
    return [chunk[i : i + PIECE_BYTES] for i in range(0, len(chunk), PIECE_BYTES)]
