"""Requests by hand, for clients that behave as no library would."""

from __future__ import annotations

import json
import socket
from typing import Any

from tests.edge_server.conftest import Server


def connect(server: Server, receive_bytes: int | None = None) -> socket.socket:
    sock = socket.socket()
    if receive_bytes is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    sock.settimeout(60)
    sock.connect(("127.0.0.1", server.port))
    return sock


def post(path: str, body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def rest_of(sock: socket.socket) -> bytes:
    """All that comes until the other side ends or cuts the connection."""
    received = b""
    try:
        while part := sock.recv(65536):
            received += part
    except ConnectionResetError:
        pass
    return received
