"""Saved states as files: private, checked, and of no use to who did not write them.

    prefixes/key                what signs the files of this cache folder
    prefixes/IDENTITY/NAME.kv   one state; IDENTITY names the model, the library and the layout,
                                NAME is the hash of the state's text and of where it begins

A file begins with a signed head, which has the checksum of the state that follows. A file that is
damaged, was signed elsewhere, or has another file's name, is removed unread: no library has to cope
with it, and no answer begins with another text than its prompt. One that cannot be read now stays.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Annotated, BinaryIO

import msgspec
import numpy as np
from msgspec import Meta, Struct

from spillover.runtime.backend import SavedKv, Tokens, saved_kv
from spillover.runtime.files.json_file import cache_folder

FREE_DISK_BYTES = 1 << 30
"""No file is written that leaves less of the disk."""
MOST_FILES = 10_000
"""Files of one model that are looked at."""

_MAGIC = b"SpilKV2\n"
_MAX_HEAD_BYTES = 16 << 20
_KEY_BYTES = 32
_SIGN_BYTES = 32
_ABANDONED_S = 3600.0
_READ_FLAGS = ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY")
"""As far as the system has them: opening a link or a pipe in place of a file must not wait."""


class StoredState(Struct, frozen=True):
    """A state in a file."""

    name: str
    n_bytes: int


class Head(Struct, frozen=True, kw_only=True):
    """What a file says of its state."""

    identity: str
    tokens: bytes
    """int32, little endian: the whole text up to the end of the state."""
    origin: Annotated[int, Meta(ge=0, le=1 << 30)]
    """The position where the state begins."""
    n_bytes: Annotated[int, Meta(ge=0, le=1 << 50)]
    checksum: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Head).decode


class PrefixFiles:
    """The states of one model, library and layout in a cache folder. Any thread may use it."""

    def __init__(self, cache_dir: Path | None, identity: str, max_bytes: int) -> None:
        """Raises OSError when there can be no private folder."""
        self._root = prefix_folder(cache_dir)
        self._folder = self._root / identity
        self._identity = identity
        self._max_bytes = max_bytes
        for folder in (self._root, self._folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.chmod(0o700)
        self._key = _key_in(self._root)
        self.has_unread = False
        """A file could not be read, and may be whole: what seems to hang on nothing may not."""

    def states(self) -> Iterator[tuple[Tokens, int, StoredState]]:
        """The text, the origin and the file of each state; other files are removed."""
        paths = sorted(self._folder.glob("*.kv"))[:MOST_FILES]
        for path in paths:
            head = self._checked_head(path)
            if head is not None:
                tokens = np.frombuffer(head.tokens, dtype="<i4").astype(np.int32)
                yield tokens, head.origin, StoredState(path.name, head.n_bytes)
        for path in self._root.glob("*/*.part"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED_S:
                    path.unlink()

    def _checked_head(self, path: Path) -> Head | None:
        try:
            with _open_private(path) as file:
                return self._head_of(file, path.name)
        except ValueError:
            path.unlink(missing_ok=True)
        except OSError as error:  # that says nothing of the file
            self.has_unread |= not isinstance(error, FileNotFoundError)
        return None

    def _head_of(self, file: BinaryIO, name: str) -> Head:
        """Raises ValueError for a file that is not the one of ours that *name* means, OSError."""
        start = file.read(len(_MAGIC) + 4)
        n = int.from_bytes(start[len(_MAGIC) :], "little")
        if not start.startswith(_MAGIC) or n > _MAX_HEAD_BYTES:
            raise ValueError("it is no saved state")
        body, sign = file.read(n), file.read(_SIGN_BYTES)
        if not hmac.compare_digest(sign, self._sign(start + body)):
            raise ValueError("it was changed, or signed elsewhere")
        head = _decode(body)
        size = len(start) + n + _SIGN_BYTES + head.n_bytes
        if head.identity != self._identity or os.fstat(file.fileno()).st_size != size:
            raise ValueError("it is of another model, or not whole")
        if name != _name(head.tokens, head.origin):
            raise ValueError("it is of another text")
        return head

    def _sign(self, content: bytes) -> bytes:
        return hashlib.blake2b(content, digest_size=_SIGN_BYTES, key=self._key).digest()

    def read(self, stored: StoredState) -> SavedKv | None:
        """The state; None if it cannot be read now, and if it is not as it was written: the file
        is removed then."""
        path = self._folder / stored.name
        try:
            with _open_private(path) as file:
                return self._state_of(file, stored.name)
        except ValueError:
            path.unlink(missing_ok=True)
        except OSError:
            pass
        return None

    def _state_of(self, file: BinaryIO, name: str) -> SavedKv:
        """Raises as _head_of()."""
        head = self._head_of(file, name)
        state = saved_kv(head.n_bytes)
        whole = file.readinto(state.data) == head.n_bytes  # type: ignore[attr-defined]  # of any file opened for bytes
        if not (whole and hmac.compare_digest(_checksum(state), head.checksum)):
            raise ValueError("its state was changed")
        return state

    def has_disk(self, n_bytes: int) -> bool:
        """Whether the disk has room for so much. Raises OSError."""
        return shutil.disk_usage(self._folder).free >= n_bytes + FREE_DISK_BYTES

    def write(self, tokens: Tokens, origin: int, state: SavedKv) -> StoredState:
        """Keep the state of *tokens* from *origin* on. Raises OSError."""
        text = np.asarray(tokens, dtype="<i4").tobytes()
        head = _encode(
            Head(
                identity=self._identity,
                tokens=text,
                origin=origin,
                n_bytes=state.nbytes,
                checksum=_checksum(state),
            )
        )
        start = _MAGIC + len(head).to_bytes(4, "little")
        path = self._folder / _name(text, origin)
        fd, part = tempfile.mkstemp(dir=self._folder, suffix=".part")  # readable by the owner only
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(start + head + self._sign(start + head))
                file.write(state.data)
            Path(part).replace(path)
        except OSError:
            Path(part).unlink(missing_ok=True)
            raise
        return StoredState(path.name, state.nbytes)

    def make_room(self, n_bytes: int, keep: Collection[str]) -> list[str] | None:
        """Remove the files of any model that were used least recently, but those of *keep*, until
        there is room for *n_bytes*; returns the names of those of this model. None, with none
        removed, where there never is."""
        all_ = sorted(_sizes(self._root), key=lambda file: file[1])
        kept = {self._folder / name for name in keep}
        found = [file for file in all_ if file[0] not in kept]
        total = sum(size for _, _, size in all_) + n_bytes
        if total - sum(size for _, _, size in found) > self._max_bytes:
            return None
        removed = []
        for path, _, size in found:
            if total <= self._max_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size
            if path.parent == self._folder:
                removed.append(path.name)
        return removed

    def remove(self, stored: StoredState) -> None:
        (self._folder / stored.name).unlink(missing_ok=True)

    def note_use(self, names: Collection[str]) -> list[str]:
        """Note that files are used: the first of *names* is the next to go. Returns the names of
        those that are gone."""
        gone = []
        for name in names:
            try:
                os.utime(self._folder / name)
            except FileNotFoundError:
                gone.append(name)
            except OSError:
                pass
        return gone


def prefix_folder(cache_dir: Path | None) -> Path:
    """Where all states are kept."""
    return cache_folder(cache_dir) / "prefixes"


def stored_size(cache_dir: Path | None) -> tuple[int, int]:
    """How many states of all models are on disk, and their bytes."""
    sizes = [size for _, _, size in _sizes(prefix_folder(cache_dir))]
    return len(sizes), sum(sizes)


def remove_all(cache_dir: Path | None) -> tuple[int, int]:
    """Remove them; returns how many there were, and their bytes."""
    found = list(_sizes(prefix_folder(cache_dir)))
    for path, _, _ in found:
        path.unlink(missing_ok=True)
    return len(found), sum(size for _, _, size in found)


def _sizes(root: Path) -> Iterator[tuple[Path, int, int]]:
    """Path, time of the last use and size of each file, those that are being written, too."""
    for path in chain(root.glob("*/*.kv"), root.glob("*/*.part")):
        with suppress(OSError):
            status = path.lstat()
            yield path, status.st_mtime_ns, status.st_size


def _name(text: bytes, origin: int) -> str:
    key = hashlib.blake2b(text + origin.to_bytes(4, "little"), digest_size=16).hexdigest()
    return f"{key}.kv"


def _checksum(state: SavedKv) -> bytes:
    return hashlib.blake2b(state.data, digest_size=32).digest()


def _open_private(path: Path) -> BinaryIO:
    """Open a file that only its owner, who is this user, can read. Raises ValueError for another
    one, and OSError."""
    flags = os.O_RDONLY | sum(getattr(os, name, 0) for name in _READ_FLAGS)
    try:
        fd = os.open(path, flags)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise ValueError(f"{path} is a link") from error
        raise
    file = os.fdopen(fd, "rb")
    status = os.fstat(file.fileno())
    is_ours = not hasattr(os, "getuid") or (
        status.st_uid == os.getuid() and not status.st_mode & 0o077
    )
    if not (stat.S_ISREG(status.st_mode) and is_ours):
        file.close()
        raise ValueError(f"{path} is not a private file")
    return file


def _key_in(folder: Path) -> bytes:
    """What signs the files here; made once. Raises OSError."""
    path = folder / "key"
    for _ in range(3):
        with suppress(FileNotFoundError, ValueError):
            with _open_private(path) as file:
                key = file.read(_KEY_BYTES + 1)
            if len(key) == _KEY_BYTES:
                return key
        path.unlink(missing_ok=True)
        with suppress(FileExistsError):  # another process was faster
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(secrets.token_bytes(_KEY_BYTES))
    raise OSError(f"{path} cannot be kept private: the file system has no modes for it")
