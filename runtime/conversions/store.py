"""The folder of conversions: found by their source, checked, and removed when nobody needs them.

    conversions/lock                  held by the process that converts
    conversions/sources/KEY.json      what is known about one GGUF file (SourceNote)
    conversions/DIGEST/               an ONNX model folder with its conversion.json

A folder appears complete, in one step. Nothing here is needed: whatever is missing, damaged or
removed while it is used, the GGUF file itself is served.
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

from msgspec.structs import replace

from spillover.models.file_lock import try_lock
from spillover.runtime.conversions.record import (
    EXPORTER,
    Conversion,
    SourceNote,
    StoredFile,
    versions,
)
from spillover.runtime.files.json_file import cache_folder, fingerprint, read_own_json, write_json

RECORD = "conversion.json"
MOST_NOTES = 1_000
"""Files of which something is known: those on disks that are not mounted count, too."""
_CHUNK = 1 << 20
_DIGEST_CHARS = 32


class ConversionStore:
    """The conversions in a cache folder; None: the user's."""

    def __init__(self, cache_dir: Path | None) -> None:
        self.folder = cache_folder(cache_dir) / "conversions"

    @property
    def lock(self) -> Path:
        return self.folder / "lock"

    def claim(self) -> None:
        """Make the folder, for this user alone. Raises OSError where it cannot be that."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if hasattr(os, "getuid") and self.folder.stat().st_uid != os.getuid():
            raise PermissionError(
                f"{self.folder} belongs to another user: set cache_dir to a folder of your own"
            )
        self.folder.chmod(0o700)

    @property
    def _is_ours(self) -> bool:
        """Whether nobody else can put a conversion there."""
        try:
            status = self.folder.stat()
        except OSError:
            return False
        return not hasattr(os, "getuid") or (
            status.st_uid == os.getuid() and not status.st_mode & 0o022
        )

    def folder_of(self, digest: str) -> Path:
        return self.folder / digest[:_DIGEST_CHARS]

    def note_of(self, source: Path) -> SourceNote | None:
        """What is known about the file *source*; None when it has changed since."""
        note = read_own_json(self._note_path(source), SourceNote)
        if note is None or not is_unchanged(note):
            return None
        return note.with_these_versions()

    def write_note(self, note: SourceNote) -> None:
        """Raises OSError."""
        write_json(self._note_path(Path(note.path)), note)

    def _note_path(self, source: Path) -> Path:
        return self.folder / "sources" / f"{fingerprint(str(source))}.json"

    def find(self, digest: str) -> Conversion | None:
        """The conversion of a file with this digest, if there is one of this exporter and its files
        are as long as they were written; or why there is none."""
        folder = self.folder_of(digest)
        found = read_own_json(folder / RECORD, Conversion) if self._is_ours else None
        if found is None or found.digest != digest or found.exporter != EXPORTER:
            return None
        found = found.with_these_versions()
        if not found.files:
            return found if found.fault else None
        whole = all(_size(folder / name) == file.size_bytes for name, file in found.files.items())
        return found if whole else None

    def write_record(self, conversion: Conversion) -> None:
        """Raises OSError."""
        write_json(self.folder_of(conversion.digest) / RECORD, conversion)

    def note_use(self, folder: Path) -> None:
        """Note that a worker has loaded the conversion in *folder* now."""
        record = read_own_json(folder / RECORD, Conversion)
        with suppress(OSError):
            if record is not None and record.failures is not None:
                self.write_record(replace(record, failures=None))
            os.utime(folder / RECORD)

    def note_failure(self, folder: Path, how: str, *, is_final: bool) -> None:
        """Note that a worker has failed with the conversion in *folder*. After MAX_DEATHS in a row,
        or where another one would fail too (*is_final*), it is removed, and why is kept."""
        record = read_own_json(folder / RECORD, Conversion)
        if record is None:
            return
        failed = record.with_these_versions().failed(how, is_final=is_final)
        with suppress(OSError):
            self.write_record(failed)
        if failed.given_up:
            self.empty(failed)

    def empty(self, conversion: Conversion) -> None:
        """Remove the files of a conversion that has a fault, but not what is known of it."""
        folder = self.folder_of(conversion.digest)
        with suppress(OSError):
            self.write_record(replace(conversion, files={}))
            for path in folder.iterdir():
                if path.name != RECORD:
                    path.unlink()

    def discard(self, folder: Path) -> None:
        """Remove a conversion, if it is one."""
        if folder.parent == self.folder:
            shutil.rmtree(folder, ignore_errors=True)

    def sweep(self) -> None:
        """Remove what is half written, outdated, or whose GGUF file was deleted. For the process
        that holds the lock."""
        living = self._living_digests()
        for folder in self._folders():
            record = read_own_json(folder / RECORD, Conversion)
            if record is None or record.exporter != EXPORTER or folder.name not in living:
                self.discard(folder)
            elif not record.files and _bytes_in(folder):
                self.empty(record)

    def forget(self, source: Path) -> None:
        """Remove what was kept of a GGUF file, unless another process works here: then it goes
        later."""
        self._note_path(source).unlink(missing_ok=True)
        self.tidy()

    def tidy(self) -> None:
        """sweep(), if there is anything and no other process works here."""
        if not self.folder.is_dir():
            return
        with suppress(OSError), try_lock(self.lock) as is_ours:
            if is_ours:
                self.sweep()

    def make_room(self, n_bytes: int, limit_bytes: int) -> None:
        """Remove the conversions that were used least recently until *n_bytes* more fit below the
        limit."""
        sizes = {folder: n for folder in self._folders() if (n := _bytes_in(folder))}
        by_use = sorted(sizes, key=lambda folder: _changed_at(folder / RECORD))
        while by_use and sum(sizes.values()) + n_bytes > limit_bytes:
            oldest = by_use.pop(0)
            del sizes[oldest]
            self.discard(oldest)

    def _living_digests(self) -> set[str]:
        """The folders of all files that still exist, as far as one can see."""
        living = set()
        newest_first = sorted(
            (self.folder / "sources").glob("*.json"), key=_changed_at, reverse=True
        )
        for index, path in enumerate(newest_first):
            note = read_own_json(path, SourceNote)
            if note is None or index >= MOST_NOTES or _was_deleted(Path(note.path)):
                path.unlink(missing_ok=True)
            elif note.digest is not None:
                living.add(note.digest[:_DIGEST_CHARS])
        return living

    def _folders(self) -> Generator[Path]:
        if self.folder.is_dir():
            names = [path for path in self.folder.iterdir() if path.name != "sources"]
            yield from (path for path in names if path.is_dir() and not path.is_symlink())


def fresh_note(source: Path) -> SourceNote | None:
    """A note that knows nothing yet; None when there is no such file."""
    try:
        status = source.stat()
    except OSError:
        return None
    return SourceNote(
        path=str(source),
        size_bytes=status.st_size,
        changed_ns=status.st_mtime_ns,
        tried_with=versions(),
    )


def is_unchanged(note: SourceNote) -> bool:
    """Whether its file is still the one that the note is about."""
    fresh = fresh_note(Path(note.path))
    return fresh is not None and (note.size_bytes, note.changed_ns) == (
        fresh.size_bytes,
        fresh.changed_ns,
    )


def describe_files(folder: Path) -> dict[str, StoredFile]:
    """Sizes and checksums of the files of a conversion. Raises OSError."""
    names = sorted(path.name for path in folder.iterdir() if path.name != RECORD)
    return {name: _stored(folder / name) for name in names}


def is_intact(folder: Path) -> bool:
    """Whether every byte is as it was written; reads all of it, as the engine will."""
    record = read_own_json(folder / RECORD, Conversion)
    try:
        return record is not None and all(
            _stored(folder / name) == stored for name, stored in record.files.items()
        )
    except OSError:
        return False


def _stored(path: Path) -> StoredFile:
    crc, size = 0, 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            crc, size = zlib.crc32(chunk, crc), size + len(chunk)
    return StoredFile(size_bytes=size, crc32=crc)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _bytes_in(folder: Path) -> int:
    """Without the record, which is all that is left of some."""
    return sum(_size(path) or 0 for path in folder.iterdir() if path.name != RECORD)


def _was_deleted(source: Path) -> bool:
    """Whether the file is gone, although its folder is there: a disk may only be unmounted."""
    return not source.exists() and source.parent.is_dir()
