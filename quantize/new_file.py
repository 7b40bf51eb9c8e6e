"""Writes a file or a folder completely or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from spillover.quantize.errors import QuantizeError

_BESIDE_BYTES = 64 << 20
"""What stays free on the disk beside a new file."""
_FULL_BYTES = 1 << 20
"""Work that fails while less is free has failed because of that."""
_AT_ONCE_BYTES = 32 << 20
"""What a file grows by before it is flushed again."""
_ADVICE = "free some space, or choose a place on another disk"
_FULL = (errno.ENOSPC, errno.EDQUOT) if os.name == "posix" else (errno.ENOSPC,)


@contextmanager
def new_file(target: Path, n_bytes: int = 0) -> Generator[Path]:
    """An empty file beside *target* that becomes it when the block succeeds and is removed
    otherwise. About *n_bytes* will be written.

    Raises QuantizeError when it cannot be written; an OSError of the block that is about something
    else passes.
    """
    check_place(target, n_bytes)
    with _writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = _beside(target)
        # Not tempfile: who may read the file is for the user's umask to say.
        os.close(os.open(scratch, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        with _noticing_a_full_disk(target):
            yield scratch
        with _writing(target):
            _flush(scratch)
            _check_new(target)  # the work may have taken hours
            os.replace(scratch, target)
    finally:
        scratch.unlink(missing_ok=True)


def check_place(target: Path, n_bytes: int) -> None:
    """Check that *target* is new, and that *n_bytes* can be written there. Raises QuantizeError."""
    with _writing(target):
        _check_new(target)
        folder = _existing_folder(target)
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        free = _free_bytes(target)
    if free < n_bytes + _BESIDE_BYTES:
        raise QuantizeError(
            f"{target} takes {n_bytes / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free on its "
            f"disk: {_ADVICE}"
        )


def _check_new(target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise QuantizeError(f"{target} exists: choose another name, or remove it first")


@contextmanager
def new_folder(target: Path, n_bytes: int = 0) -> Generator[Path]:
    """A folder that becomes *target* when the block succeeds and is removed otherwise. About
    *n_bytes* will be written into it. Raises as new_file() does."""
    check_place(target, n_bytes)
    with _writing(target):
        scratch = _beside(target)
        scratch.mkdir(parents=True)
    try:
        with _noticing_a_full_disk(target):
            yield scratch
        with _writing(target):
            flush_folder(scratch)
            _check_new(target)
            os.replace(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def flushing(path: Path) -> Generator[Callable[[], None]]:
    """Call what this gives again and again while *path* grows, and little is left to be written to
    the disk at the end. Both raise QuantizeError: the system tells only once that it could not
    write."""
    with ThreadPoolExecutor(1) as thread:
        last, n_flushed = Future[None](), 0
        last.set_result(None)

        def flush() -> None:
            nonlocal last, n_flushed
            n_bytes = path.stat().st_size
            if n_bytes - n_flushed >= _AT_ONCE_BYTES and last.done():
                settle()
                last, n_flushed = thread.submit(_flush, path), n_bytes

        def settle() -> None:
            with _writing(path):
                last.result()

        yield flush
        settle()


def flush_folder(folder: Path) -> None:
    """Return when the files of *folder* have reached the disk. Raises OSError."""
    for path in folder.iterdir():
        _flush(path)


def _flush(path: Path) -> None:
    """Or its name could outlive a loss of power, but not its content."""
    with path.open("rb+") as file:  # Windows flushes only what may be written
        os.fsync(file.fileno())


def _beside(target: Path) -> Path:
    import secrets  # slow

    return target.with_name(f".{target.name}.{secrets.token_hex(8)}")


def _free_bytes(target: Path) -> int:
    return shutil.disk_usage(_existing_folder(target)).free


def _existing_folder(target: Path) -> Path:
    """Where *target* is, or will be made with the folders above it."""
    return next(folder for folder in target.absolute().parents if folder.exists())


@contextmanager
def _writing(target: Path) -> Generator[None]:
    """Say why *target* cannot be written."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise _full(target) from error
        place = error.filename or target
        raise QuantizeError(
            f"{target} cannot be written: {error.strerror or error} ({place}): choose another place"
        ) from error


@contextmanager
def _noticing_a_full_disk(target: Path) -> Generator[None]:
    """Libraries say only that something could not be written, or nothing at all."""
    try:
        yield
    except (OSError, QuantizeError) as error:
        if _is_full(error, target):
            raise _full(target) from error
        raise


def _is_full(error: Exception, target: Path) -> bool:
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    with suppress(OSError):  # the folder may be gone
        return _free_bytes(target) < _FULL_BYTES
    return False


def _full(target: Path) -> QuantizeError:
    return QuantizeError(f"{target} cannot be written: its disk is full: {_ADVICE}")
