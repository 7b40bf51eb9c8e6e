"""The digest of a model's weights, computed once and remembered while the files are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from msgspec import Meta, Struct

from spillover.runtime.files.json_file import cache_folder, fingerprint, read_own_json, write_json

_CHUNK_BYTES = 1 << 20


class FileStamp(Struct, frozen=True):
    """A file as it is now: another content would show here."""

    path: str
    size_bytes: int
    changed_ns: int
    number: int
    """The system's own number of the file, which changes when it is replaced."""


class _Note(Struct, frozen=True, kw_only=True):
    files: tuple[FileStamp, ...]
    digest: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class ModelDigest:
    """Of the files that a model was loaded from, as they were when this was made."""

    def __init__(self, files: Sequence[Path], cache_dir: Path | None) -> None:
        """Raises OSError."""
        self._files = _stamps(files)
        name = fingerprint(*(file.path for file in self._files))
        self._note_path = cache_folder(cache_dir) / "digests" / f"{name}.json"

    def known(self) -> str | None:
        """The digest, if it was computed before."""
        note = read_own_json(self._note_path, _Note)
        return note.digest if note is not None and note.files == self._files else None

    def compute(self, is_stopped: Callable[[], bool]) -> str | None:
        """Read all files for it; None if one has changed since, or *is_stopped* says so. Raises
        OSError."""
        digest = hashlib.sha256()
        for file in self._files:
            digest.update(file.size_bytes.to_bytes(8, "little"))
            with open(file.path, "rb") as stream:
                while chunk := stream.read(_CHUNK_BYTES):
                    if is_stopped():
                        return None
                    digest.update(chunk)
        if _stamps([Path(file.path) for file in self._files]) != self._files:
            return None
        with suppress(OSError):
            write_json(self._note_path, _Note(files=self._files, digest=digest.hexdigest()))
        return digest.hexdigest()


def _stamps(files: Sequence[Path]) -> tuple[FileStamp, ...]:
    stamps = []
    for path in files:
        status = path.stat()
        stamps.append(
            FileStamp(str(path.resolve()), status.st_size, status.st_mtime_ns, status.st_ino)
        )
    return tuple(stamps)
