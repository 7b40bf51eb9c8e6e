"""Where log messages go."""

from __future__ import annotations

import logging


def log_to_stderr(level: str) -> None:
    """Show our own messages from *level* on, and warnings of all others.

    Less severe messages of libraries are left out: they may quote requests and their headers.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("spillover").setLevel(level.upper())
