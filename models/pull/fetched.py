"""What every way to fetch a model has in common."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from spillover.models.entry import CatalogueError
from spillover.models.file_lock import try_lock

Progress = Callable[[int, int], None]
"""Called with the bytes fetched so far and the bytes in all (0: unknown)."""


class PullError(CatalogueError):
    """A model could not be fetched; the message says why and what to do."""


class Offline(PullError):
    """A model is not here, and the network must not be used."""


class Fetched(Struct, frozen=True, kw_only=True):
    """Files that are complete on this device."""

    path: Path
    """The GGUF file (the first of several), or the folder of an ONNX model."""
    files: tuple[Path, ...]
    sha256: str | None = None
    """Of *path*, where its source says so and it was compared."""


@contextmanager
def only_one(lock: Path, what: str) -> Generator[None]:
    """Fetch *what* during the block, and no other process at the same time: PullError says that
    one is at it. Raises OSError."""
    with try_lock(lock) as is_ours:
        if not is_ours:
            raise PullError(
                f"another program is fetching the {what} right now: let it end, then try again"
            )
        yield
