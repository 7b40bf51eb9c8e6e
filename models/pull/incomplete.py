"""A file that is being fetched, as far as it has come."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from spillover.models.entry import sha256_of

ENDING = ".incomplete"
"""Of its name, as in Hugging Face's cache."""

_SYNC_BYTES = 64 * 2**20
"""At most so much is lost when the device loses power."""


class Origin(Struct, frozen=True):
    """What an incomplete file is the beginning of."""

    url: str
    validator: str
    """The ETag, or the time of the last change; empty: the server does not say."""


class _Mark(Struct, frozen=True):
    """What is kept beside the file for the next process."""

    origin: Origin
    n_bytes: int
    """How many are on the disk, even if the device has lost power since."""


class IncompleteFile:
    """The beginning of the file *target*, in target.incomplete, and its origin beside that. Of one
    thread."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self.path = target.with_name(f"{target.name}{ENDING}")
        self._mark = target.with_name(f"{target.name}{ENDING}.json")
        self._digest = hashlib.sha256()
        self._n_digested = 0

    @property
    def n_bytes(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def known(self) -> tuple[Origin | None, int]:
        """The origin, if it is known, and the bytes that are surely of it."""
        with contextlib.suppress(OSError, msgspec.DecodeError):
            mark = msgspec.json.decode(self._mark.read_bytes(), type=_Mark)
            return mark.origin, min(mark.n_bytes, self.n_bytes)
        return None, 0

    def take_back(self) -> None:
        """Take a published file for a beginning until it is `settled`: it was not looked at yet."""
        if self._target.is_file() and self._mark.is_file():
            self._target.replace(self.path)

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)
        self._mark.unlink(missing_ok=True)

    @contextmanager
    def appending(self, n_kept: int, origin: Origin | None) -> Generator[Callable[[bytes], None]]:
        """A function that writes what comes behind the first *n_kept* bytes. *origin* is kept for
        the next process, as are the bytes, whatever ends the block; without it, that process needs
        the digest to know what they are. Raises OSError."""
        self._note(origin, n_kept)
        if n_kept == 0:
            self._digest, self._n_digested = hashlib.sha256(), 0
        elif n_kept != self._n_digested:
            self._n_digested = -1
        n_bytes = n_synced = n_kept
        with self.path.open("r+b" if n_kept else "wb", buffering=0) as file:
            file.truncate(n_kept)
            file.seek(n_kept)

            def write(chunk: bytes) -> None:
                nonlocal n_bytes, n_synced
                rest = memoryview(chunk)
                while rest:  # a disk that gets full takes a part
                    n = file.write(rest)
                    self._digest_more(n_bytes, rest[:n])
                    n_bytes, rest = n_bytes + n, rest[n:]
                if origin is not None and n_bytes - n_synced >= _SYNC_BYTES:
                    os.fsync(file.fileno())
                    self._note(origin, n_bytes)
                    n_synced = n_bytes

            try:
                yield write
            finally:
                os.fsync(file.fileno())
                self._note(origin, n_bytes)

    def sha256(self) -> str:
        """The digest of all that has come. Usually nothing is read again for it."""
        return (
            self._digest.hexdigest() if self._n_digested == self.n_bytes else sha256_of(self.path)
        )

    def publish(self) -> None:
        """Let the target appear."""
        self.path.replace(self._target)

    def _digest_more(self, at: int, chunk: memoryview) -> None:
        if at == self._n_digested:
            self._digest.update(chunk)
            self._n_digested += len(chunk)

    def _note(self, origin: Origin | None, n_bytes: int) -> None:
        if origin is None:
            self._mark.unlink(missing_ok=True)
        else:
            self._mark.write_bytes(msgspec.json.encode(_Mark(origin, n_bytes)))


def settled(target: Path) -> None:
    """Keep *target*, which was published, whatever its server may have in the future."""
    target.with_name(f"{target.name}{ENDING}.json").unlink(missing_ok=True)
