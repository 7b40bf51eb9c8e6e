"""The SHA-256 of a source, computed while a new file is made of it that names it."""

from __future__ import annotations

import mmap
import struct
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

from spillover.quantize.errors import QuantizeError

KEY, UNKNOWN = "spillover.source.sha256", "0" * 64
"""Where the metadata of a new file have it, and what is there while it is computed."""
_STRING = 8
"""GGUF's type of a text."""


class SourceDigest:
    """That of all *paths* one after the other, from now on."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._found = Future[str]()
        # A daemon: when something else fails, nobody waits for it.
        threading.Thread(target=self._compute, daemon=True).start()

    def _compute(self) -> None:
        try:
            self._found.set_result(sha256(*self._paths))
        except OSError as error:
            self._found.set_exception(error)

    def write_into(self, path: Path) -> None:
        """Wait for it, and put it in the place of UNKNOWN in the GGUF file *path*. Raises OSError,
        QuantizeError."""
        found = self._found.result().encode()
        before = KEY.encode() + struct.pack("<IQ", _STRING, len(UNKNOWN))
        with path.open("rb+") as file, mmap.mmap(file.fileno(), 0) as content:
            place = content.find(before + UNKNOWN.encode())
            if place < 0:
                raise QuantizeError(f"llama.cpp has not written {KEY}: report this defect")
            start = place + len(before)
            content[start : start + len(found)] = found


def sha256(*paths: Path) -> str:
    """Of files one after the other, in hexadecimal. Raises OSError."""
    import hashlib  # slow

    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()
