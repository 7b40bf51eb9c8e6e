"""Where log messages go."""

from __future__ import annotations

import logging

from spillover.runtime.worker.stderr_log import StderrLog


def log_to_stderr(level: str) -> None:
    """Show our own messages from *level* on, and warnings of all others.

    Less severe messages of libraries are left out: they may quote requests and their headers.
    """
    logging.basicConfig(level=logging.WARNING, handlers=[StderrLog()])
    logging.getLogger("spillover").setLevel(level.upper())
