"""A server that speaks the API of Hugging Face, with the faults that networks have."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import quote, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class HeldFile:
    """A file of a repository, and how the server misbehaves when it is asked for."""

    content: bytes
    sent: bytes | None = None
    """What is sent instead, with the digest of *content*."""
    breaks_after: list[int] = field(default_factory=list)
    """Of each next answer: bytes after which nothing more comes."""
    breaks_by: str = "end"
    """How: by its "end", by "noise" under TLS, or by "silence", which lasts."""
    ignores_range: bool = False
    shifts_range: bool = False
    """Answers a request for a part with one that begins elsewhere."""
    status: int = 200

    @property
    def etag(self) -> str:
        return sha256(self.content)


class _Server(ThreadingHTTPServer):
    """A client that leaves in the middle is no error."""

    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        pass


class FakeHub:
    """The server; *requests* are the method, path and Range of what it was asked."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.files: dict[str, HeldFile] = {}
        """By "owner/name/path"; also at the address of that path."""
        self.gated: set[str] = set()
        self.statuses: dict[str, int] = {}
        """What asking for a repository is answered with, by its name."""
        self.requests: list[tuple[str, str, str]] = []
        self.tokens: list[str] = []
        self._is_closed = threading.Event()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        if tls is not None:
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}"

    def add(self, path: str, content: bytes, **faults: Any) -> HeldFile:
        held = self.files[path] = HeldFile(content, **faults)
        return held

    def ranges(self, ending: str) -> list[str]:
        """The Range headers of the transfers of a file."""
        return [r for method, path, r in self.requests if method == "GET" and path.endswith(ending)]

    def close(self) -> None:
        self._is_closed.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> Callable[..., BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_HEAD(self) -> None:
                hub._answer(self)

            def do_GET(self) -> None:
                hub._answer(self)

        return Handler

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(request.path).path)
        self.requests.append((request.command, path, request.headers.get("Range", "")))
        self.tokens.append(request.headers.get("Authorization", ""))
        if info := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/.+)?", path):
            self._send_info(request, info[1])
        elif file := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            self._send_place(request, file[1], file[2])
        else:
            self._send_file(request, path.removeprefix("/cdn").lstrip("/"))

    def _send_info(self, request: BaseHTTPRequestHandler, repository: str) -> None:
        files = {
            path.removeprefix(f"{repository}/"): held
            for path, held in self.files.items()
            if path.startswith(f"{repository}/")
        }
        if repository in self.statuses:
            self._send(request, self.statuses[repository], b"<html>", {})
        elif repository in self.gated:
            self._send(request, 403, b"{}", {"X-Error-Code": "GatedRepo"})
        elif not files:
            self._send(request, 404, b"{}", {"X-Error-Code": "RepoNotFound"})
        else:
            siblings = [
                {
                    "rfilename": name,
                    "size": len(held.content),
                    "blobId": held.etag[:40],
                    "lfs": {
                        "sha256": held.etag,
                        "size": len(held.content),
                        "pointerSize": 134,
                    },
                }
                for name, held in files.items()
            ]
            body = {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings}
            self._send(
                request, 200, json.dumps(body).encode(), {"Content-Type": "application/json"}
            )

    def _send_place(self, request: BaseHTTPRequestHandler, repository: str, name: str) -> None:
        held = self.files.get(f"{repository}/{name}")
        if held is None:
            self._send(request, 404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        elsewhere = self.url.replace("127.0.0.1", "localhost")
        headers = {
            "X-Repo-Commit": COMMIT,
            "X-Linked-Etag": f'"{held.etag}"',
            "X-Linked-Size": str(len(held.content)),
            "ETag": f'"{held.etag}"',
            "Location": f"{elsewhere}/cdn/{repository}/{quote(name)}",
        }
        self._send(request, 302, b"", headers)

    def _send_file(self, request: BaseHTTPRequestHandler, path: str) -> None:
        held = self.files.get(path)
        if held is None or held.status != 200:
            self._send(request, held.status if held else 404, b"", {})
            return
        content = held.content if held.sent is None else held.sent
        wanted = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
        tag = request.headers.get("If-Range")
        first = int(wanted[1]) if wanted and tag in (None, f'"{held.etag}"') else 0
        headers = {"ETag": f'"{held.etag}"'}
        if held.ignores_range:
            first = 0
        if first >= len(content) > 0:
            self._send(request, 416, b"", headers | {"Content-Range": f"bytes */{len(content)}"})
            return
        status = 206 if first else 200
        if first and held.shifts_range:
            first -= 1
        if status == 206:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        most = held.breaks_after.pop(0) if held.breaks_after and request.command == "GET" else None
        self._send(request, status, content[first:], headers, most)
        if most is not None:
            self._break(request, held.breaks_by)

    def _break(self, request: BaseHTTPRequestHandler, how: str) -> None:
        request.close_connection = True
        connection = request.connection
        if how == "silence":
            self._is_closed.wait()
        elif how == "noise":
            os.write(connection.fileno(), b"no record of TLS")
        else:
            connection.shutdown(socket.SHUT_RDWR)

    def _send(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        body: bytes,
        headers: dict[str, str],
        most: int | None = None,
    ) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body[:most])
        request.wfile.flush()
