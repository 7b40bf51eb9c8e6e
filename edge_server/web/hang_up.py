"""Notices that the other side of a socket is gone although nobody reads from it (Linux)."""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable

IS_SUPPORTED = hasattr(select, "epoll")


class HangUp:
    """Calls *on_gone* on the loop when the connection of *fd* is broken. The loop does not watch a
    socket from which everything was read; a poll of its own, with no event but errors, does."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, fd: int, on_gone: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._poll = select.epoll()
        self._poll.register(fd, 0)
        loop.add_reader(self._poll.fileno(), on_gone)

    def close(self) -> None:
        self._loop.remove_reader(self._poll.fileno())
        self._poll.close()
