"""A lock on a file that one process of this device holds. It ends with the process."""

from __future__ import annotations

import errno
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

_HAS_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""What a network's file system says that knows no locks: then nobody can hold one."""


@contextmanager
def try_lock(path: Path, *, waits: bool = False) -> Generator[bool]:
    """Hold the lock *path* during the block; False: another process holds it. *waits*: until that
    one has ended (on Windows for ten seconds). Raises OSError when the file cannot be opened."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        yield _lock(file.fileno(), waits=waits)


def _lock(fd: int, *, waits: bool) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(fd, msvcrt.LK_LOCK if waits else msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(fd, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
    except OSError as error:
        return error.errno in _HAS_NO_LOCKS
    return True
