"""Writes a file completely or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from spillover.quantize.errors import QuantizeError

_BESIDE_BYTES = 64 << 20
"""What stays free on the disk beside a new file."""


@contextmanager
def new_file(target: Path, n_bytes: int = 0) -> Generator[Path]:
    """An empty file beside *target* that becomes it when the block succeeds and is removed
    otherwise. About *n_bytes* will be written. Raises QuantizeError."""
    if target.exists() or target.is_symlink():
        raise QuantizeError(f"{target} exists: name a new file, or remove it first")
    scratch: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
        if free < n_bytes + _BESIDE_BYTES:
            raise QuantizeError(
                f"{target} takes {n_bytes / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free on its "
                "disk: free some space, or name a file on another disk"
            )
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        os.close(handle)
        scratch = Path(name)
        yield scratch
        with scratch.open("rb") as file:
            os.fsync(
                file.fileno()
            )  # or the name could outlive a loss of power, but not the content
        scratch.chmod(0o644)
        os.replace(scratch, target)
    except OSError as error:
        raise QuantizeError(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        if scratch is not None:
            scratch.unlink(missing_ok=True)
