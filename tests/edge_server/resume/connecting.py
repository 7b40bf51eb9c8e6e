"""Clients of resumable streams on real sockets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import httpx

from tests.edge_server.conftest import Server
from tests.edge_server.resume.answer import Client
from tests.edge_server.story import STORY

CHAT = "/v1/chat/completions"
LONG: dict[str, Any] = {"messages": STORY, "temperature": 0, "ignore_eos": True}
RESUME = {"X-Spillover-Resume": "1"}
Key = str | None


def begin(
    server: Server, body: dict[str, Any], path: str = CHAT, key: Key = None
) -> AbstractContextManager[httpx.Response]:
    """A resumable stream; leaving the context early breaks the connection."""
    return _client().stream(
        "POST",
        f"{server.url}{path}",
        json={**body, "stream": True},
        headers=RESUME | _authorization(key),
    )


def take_up(
    server: Server, name: str, after: int, key: Key = None
) -> AbstractContextManager[httpx.Response]:
    headers = {"Last-Event-ID": f"{name}:{after}"} | _authorization(key)
    return _client().stream("GET", place(server, name), headers=headers)


def place(server: Server, name: str) -> str:
    return f"{server.url}/v1/streams/{name}"


def name_of(response: httpx.Response) -> str:
    assert response.status_code == 200
    return response.headers["X-Spillover-Stream"]


def take(client: Client, parts: Iterator[bytes], until: Callable[[], bool] = lambda: False) -> None:
    """Apply events, one by one as they come, until *until* or the end; the rest is lost. Unless
    somebody keeps *parts*, the connection breaks then."""
    rest = b""
    for part in parts:
        *events, rest = (rest + part).split(b"\n\n")
        for event in events:
            client.take(event + b"\n\n")
            if until():
                return


def whole(server: Server, body: dict[str, Any], key: Key = None) -> str:
    """The text of the same answer in one piece."""
    reply = _client().post(f"{server.url}{CHAT}", json=body, headers=_authorization(key))
    content = reply.json()["choices"][0]["message"]["content"]
    assert isinstance(content, str)
    return content


def states(server: Server, key: Key = None) -> list[str]:
    reply = _client().get(f"{server.url}/slots", headers=_authorization(key))
    return [slot["state"] for slot in reply.json()]


@cache
def _client() -> httpx.Client:
    """One for all tests: making one loads certificates, which are not needed here."""
    return httpx.Client(verify=False, timeout=60)


def _authorization(key: Key) -> dict[str, str]:
    return {} if key is None else {"Authorization": f"Bearer {key}"}
