"""File descriptors: enough for all connections, and what happens when there are none."""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from typing import Any

from spillover.edge_server.web.connections import N_SPARE, Connections

try:
    import resource
except ImportError:  # Windows has no such limit
    resource = None  # type: ignore[assignment]  # looked at before each use

N_OTHERS = 160
"""Descriptors for all else: pipes, files, requests to providers, resolvers."""
RETRY_S = 1.0
"""After this the loop tries to accept connections again."""
QUIET_S = 60.0
"""A message about descriptors is not repeated within this."""

_SCARCE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

_log = logging.getLogger(__name__)


def allow_connections(most: int) -> int:
    """How many of *most* connections the system's limit on open files allows; raises the soft limit
    as far as that needs."""
    if resource is None:
        return most
    needed = most + N_SPARE + N_OTHERS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if needed <= soft or soft == resource.RLIM_INFINITY:
        return most
    limit = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    except (OSError, ValueError):  # macOS: a limit of the kernel lies below the hard one
        limit = soft
    allowed = max(min(most, limit - N_SPARE - N_OTHERS), 1)
    if allowed < most:
        _log.warning(
            "max_connections is %d, but this process may open %d files: at most %d connections "
            "are served; raise the limit (ulimit -n %d)",
            most,
            limit,
            allowed,
            needed,
        )
    return allowed


class OutOfDescriptors:
    """A loop's exception handler: of connections that cannot be accepted it says so in one line,
    now and then, and closes an idle one; the loop itself tries again after a second."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._said_at = self._closed_at = float("-inf")

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not (isinstance(error, OSError) and error.errno in _SCARCE):
            loop.default_exception_handler(context)
            return
        now = time.monotonic()
        if now - self._closed_at >= RETRY_S:  # the loop asks for each connection that waits
            self._closed_at = now
            self._connections.close_oldest()
        if now - self._said_at >= QUIET_S:
            self._said_at = now
            _log.error(
                "new connections have to wait: %s. Lower max_connections or raise the system's "
                "limit (ulimit -n)",
                error.strerror,
            )
