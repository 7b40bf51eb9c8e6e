"""Logs defects of Spillover itself: where they happened, without any user text."""

from __future__ import annotations

import logging
import traceback


def log_defect(log: logging.Logger, what: str, error: BaseException) -> None:
    """Log that *what* happened after *error*, with its type and its trace but not its own text,
    which may hold a prompt, an answer or a key."""
    where = "".join(traceback.format_tb(error.__traceback__))
    log.error("%s after %s:\n%s", what, type(error).__name__, where)
