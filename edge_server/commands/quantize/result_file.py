"""A file for results: what would keep it from being written is told before the work."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import click


def check_result_file(path: Path | None, flag: str, given: Sequence[Path]) -> None:
    """Check that the file *path* of the option *flag* can be written, and is none of those that are
    *given* to be read. Raises UsageError."""
    if path is None:
        return
    if not path.parent.is_dir():
        raise click.UsageError(f"there is no folder {path.parent} for {flag}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise click.UsageError(f"{path} cannot be written: choose another place for {flag}")
    if path.exists() and any(path.samefile(one) for one in given):
        raise click.UsageError(f"{flag} would replace {path}, which is to be read")
