"""Where the events of an answer come from."""

from __future__ import annotations

from typing import Protocol

from spillover.edge_server.web.stream_log import StreamLog
from spillover.runtime.cancellation import Cancellation


class Source(Protocol):
    """A generation, or several as one."""

    @property
    def log(self) -> StreamLog: ...
    @property
    def cancellation(self) -> Cancellation: ...
    @property
    def error(self) -> Exception | None: ...
